# SPDX-License-Identifier: GPL-2.0-or-later
"""The QAPI generator: what it refuses and how it says so, and that its reference is kept current."""

import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

SOURCE_DIR = os.environ.get('FERRY_SOURCE_DIR') or os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GENERATOR = os.path.join(SOURCE_DIR, 'scripts', 'qapi-gen.py')
SCHEMA = os.path.join(SOURCE_DIR, 'qapi', 'qapi-schema.json')

# a definition that later ones can use
BASE = '''{ 'enum': 'Kind', 'data': [ 'one', 'two' ] }
{ 'struct': 'Pair', 'data': { 'a': 'int', '*b': 'str' } }
'''


class GeneratorCase(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory(prefix='ferry-qapi-')
        self.addCleanup(self.directory.cleanup)

    def write(self, name, text):
        with open(os.path.join(self.directory.name, name), 'w', encoding='utf-8') as file:
            file.write(text)

    def run_generator(self, text):
        self.write('schema.json', text)
        return subprocess.run(
            [sys.executable, GENERATOR, '-o', 'out', 'schema.json'], cwd=self.directory.name,
            capture_output=True, text=True, check=False)

    def output(self, name):
        with open(os.path.join(self.directory.name, 'out', name), encoding='utf-8') as file:
            return file.read()


class TestErrors(GeneratorCase):
    """(schema, line, message): each is refused with one line that names the place."""

    CASES = [
        # syntax
        ("{ 'struct': 'Foo'", 1, "Expected ',' or '}' in the object of schema.json:1"),
        ("'x'", 1, "Expected '{' at the start of an expression"),
        ("{ 'struct': \"Foo\" }", 1, "Stray '\"'"),
        ("{ 'struct': Foo }", 1, "Stray 'F'"),
        ("{ struct: 'Foo' }", 1, "Stray 's'"),
        ("\n{ 'a': 'b', 'a': 'c' }", 2, "Duplicate key 'a'"),
        ("{ 'a' 'b' }", 1, "Expected ':' behind 'a'"),
        ("{ 'a': [ 'b' 'c' ] }", 1, "Expected ',' or ']' in a list"),
        ("{ 'a': }", 1, "Expected a value, found '}'"),
        ("##\n# @Foo:\n\n{ 'struct': 'Foo', 'data': {} }", 1,
         "A documentation comment lacks its end '##'"),
        # expressions
        ("{ 'struct': 'Foo', 'enum': 'Bar' }", 1, "An expression needs exactly one of"),
        ("{ 'foo': 'Bar' }", 1, "An expression needs exactly one of"),
        ("{ 'struct': 'Foo' }", 1, "struct 'Foo' lacks 'data'"),
        ("{ 'struct': 'Foo', 'data': {}, 'x': true }", 1, "struct 'Foo' has the unknown key 'x'"),
        ("{ 'struct': 'Foo', 'data': {}, 'if': 'X' }", 1, "'if' is not supported"),
        ("{ 'struct': 'foo', 'data': {} }", 1, "'foo' is not a good name for a struct"),
        ("{ 'command': 'Foo' }", 1, "'Foo' is not a good name for a command"),
        ("{ 'event': 'foo' }", 1, "'foo' is not a good name for a event"),
        ("{ 'command': 'foo' }\n{ 'command': 'foo' }", 2, "'foo' is defined twice"),
        ("{ 'struct': 'FooBar', 'data': {} }\n{ 'enum': 'FOOBar', 'data': [] }", 2,
         "clashes with 'FooBar' in C"),
        ("{ 'include': 'none.json' }", 1, 'Cannot read none.json: No such file or directory'),
        ("{ 'include': 'a', 'x': 'y' }", 1, 'An include takes one file name'),
        ("{ 'pragma': { 'x': true } }", 1, "Unknown pragma 'x'"),
        ("{ 'pragma': { 'doc-required': 'x' } }", 1, "Pragma 'doc-required' has the wrong type"),
        # enums
        ("{ 'enum': 'Foo', 'data': { 'a': 'b' } }", 1, "The data of enum 'Foo' must be a list"),
        ("{ 'enum': 'Foo', 'data': [ 'a b' ] }", 1, "'a b' is not a good enum value"),
        ("{ 'enum': 'Foo', 'data': [ 'a-b', 'a_b' ] }", 1, "'a_b' clashes with 'a-b'"),
        ("{ 'enum': 'Foo', 'data': [ { 'name': 'a', 'x': 'y' } ] }", 1, 'has the bad value'),
        # structs
        ("{ 'struct': 'Foo', 'data': { 'a': 'Bar' } }", 1, "'Foo.a' uses the unknown type 'Bar'"),
        ("{ 'struct': 'Foo', 'data': { 'a': [ 'int', 'str' ] } }", 1,
         'a list type names exactly one type'),
        ("{ 'struct': 'Foo', 'data': { 'A': 'int' } }", 1, "'A' is not a good member name"),
        ("{ 'struct': 'Foo', 'data': { 'a-b': 'int', 'a_b': 'int' } }", 1,
         "member 'a_b' clashes in C"),
        ("{ 'struct': 'Foo', 'data': { '*a': 'int', 'has-a': 'int' } }", 1,
         "member 'has-a' clashes in C"),
        ("{ 'struct': 'Foo', 'data': { 'a': 'null' } }", 1, "member 'a' cannot be null"),
        ("{ 'struct': 'Foo', 'base': 'Foo', 'data': {} }", 1, "'Foo' is its own base"),
        ("{ 'struct': 'Foo', 'base': 'int', 'data': {} }", 1, "The base of 'Foo' must be a struct"),
        (BASE + "{ 'struct': 'Foo', 'base': 'Pair', 'data': { 'a': 'str' } }", 3,
         "member 'a' clashes in C"),
        # unions
        (BASE + "{ 'union': 'Foo', 'base': { 'x': 'int' }, 'discriminator': 'k', 'data': {} }", 3,
         "the base lacks the discriminator 'k'"),
        (BASE + "{ 'union': 'Foo', 'base': { 'k': 'str' }, 'discriminator': 'k', 'data': {} }", 3,
         'the discriminator must be an enum'),
        (BASE + "{ 'union': 'Foo', 'base': { '*k': 'Kind' }, 'discriminator': 'k', 'data': {} }",
         3, 'the discriminator must be an enum'),
        (BASE + "{ 'union': 'Foo', 'base': { 'k': 'Kind' }, 'discriminator': 'k',\n"
         "  'data': { 'three': 'Pair' } }", 3, "'three' is not a value of enum 'Kind'"),
        (BASE + "{ 'union': 'Foo', 'base': { 'k': 'Kind' }, 'discriminator': 'k',\n"
         "  'data': { 'one': 'str' } }", 3, "'one' must be a struct or union"),
        (BASE + "{ 'union': 'Foo', 'base': { 'k': 'Kind', 'a': 'int' }, 'discriminator': 'k',\n"
         "  'data': { 'one': 'Pair' } }", 3, "'Foo.one': member 'a' clashes in C"),
        # alternates
        ("{ 'alternate': 'Foo', 'data': { 'a': 'int', 'b': 'number' } }", 1,
         "'b' looks like 'a' in JSON"),
        (BASE + "{ 'alternate': 'Foo', 'data': { 'a': 'str', 'b': 'Kind' } }", 3,
         "'b' looks like 'a' in JSON"),
        ("{ 'alternate': 'Foo', 'data': { 'a': 'any' } }", 1, "'a' cannot be told apart"),
        ("{ 'alternate': 'Foo', 'data': {} }", 1, "The data of alternate 'Foo' must be an object"),
        # commands and events
        ("{ 'command': 'foo', 'returns': 'int' }", 1, "Command 'foo' must return an object"),
        ("{ 'command': 'foo', 'data': 'int' }", 1, "The data of 'foo' must be a struct"),
        ("{ 'command': 'foo', 'boxed': true }", 1, "'foo' is boxed but has no data"),
        ("{ 'command': 'foo', 'boxed': true, 'data': { 'a': 'int' } }", 1,
         "'foo': boxed needs a named type"),
        ("{ 'command': 'foo', 'gen': 'no' }", 1, "'gen' of 'foo' must be true or false"),
        (BASE + "{ 'command': 'foo', 'returns': 'Pair', 'deferred': 'yes' }", 3,
         "'deferred' of 'foo' must be true or false"),
        ("{ 'command': 'foo', 'deferred': true }", 1, "'foo' is deferred: it returns an object"),
        (BASE + "{ 'command': 'foo', 'returns': 'Pair', 'deferred': true, 'allow-oob': true }", 3,
         'does not run out of band'),
        ("{ 'command': 'foo', 'features': [ 'A' ] }", 1, "Bad feature 'A'"),
        # documentation
        ("{ 'pragma': { 'doc-required': true } }\n{ 'command': 'foo' }", 2,
         "command 'foo' lacks documentation"),
        ("##\n# @bar:\n#\n# Since: QEMU 1.0\n##\n{ 'command': 'foo' }", 1,
         "Documentation is for 'bar', but 'foo' follows"),
        ("##\n# @foo:\n#\n# Since: QEMU 1.0\n##\n", 1, "Documentation of 'foo' lacks its definition"),
        ("##\n# @foo:\n#\n# @x: y\n#\n# Since: QEMU 1.0\n##\n{ 'command': 'foo' }", 1,
         "'@x:' documents nothing"),
        ("##\n# @foo:\n#\n# Since: QEMU 1.0\n##\n{ 'command': 'foo', 'data': { 'x': 'int' } }", 1,
         "'foo': 'x' is not documented"),
        ("##\n# @foo:\n#\n# @x: y\n#\n# @x: z\n#\n##\n{ 'command': 'foo' }", 6,
         "'@x:' is documented twice"),
        ("##\n# @foo:\n#\n# Text.\n##\n{ 'command': 'foo' }", 1, "'foo' lacks a line 'Since:'"),
        ("##\n# @foo:\n#\n# Since: 1.0\n##\n{ 'command': 'foo' }", 1, "Since is 'QEMU x.y'"),
        ("##\n# @foo:\n#\n# Since: Ferry 0.1\n##\n{ 'command': 'foo' }", 1,
         "carries both 'Since: Ferry' and the feature 'ferry'"),
    ]

    def test_refused(self):
        for text, line, message in self.CASES:
            with self.subTest(message=message):
                result = self.run_generator(text)
                self.assertNotEqual(result.returncode, 0)
                self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
                self.assertTrue(result.stderr.startswith(f'schema.json:{line}: '), result.stderr)
                self.assertIn(message, result.stderr)

    def test_nothing_written_on_error(self):
        self.run_generator("{ 'struct': 'foo' }")
        self.assertFalse(os.path.exists(os.path.join(self.directory.name, 'out')))


class TestOutput(GeneratorCase):
    SCHEMA = BASE + '''
{ 'include': 'other.json' }
{ 'include': 'other.json' } # only once
{ 'pragma': { 'command-returns-exceptions': [ 'get-number', 'get-text' ] } }
{ 'enum': 'Odd', 'prefix': 'STRANGE', 'data': [ '1a', 'b.c', { 'name': 'd', 'features': [ 'f' ] } ] }
{ 'struct': 'Keywords', 'base': 'Pair', 'data': { 'default': 'bool', '*unix': 'number' } }
{ 'union': 'Inner', 'base': 'Selected', 'discriminator': 'kind', 'data': { 'two': 'Keywords' } }
{ 'struct': 'Selected', 'data': { 'kind': 'Kind' } }
{ 'alternate': 'Either', 'data': { 'obj': 'Pair', 'num': 'int32', 'flag': 'bool', 'nil': 'null',
                                   'list': [ 'Pair' ] } }
{ 'struct': 'Node', 'data': { '*next': 'Node', '*all': [ [ 'uint8' ] ], '*any': 'any' } }
{ 'command': 'get-number', 'returns': 'int' }
{ 'command': 'get-text', 'data': { 'e': 'Either', '*n': 'Node' }, 'returns': 'str' }
{ 'command': 'raw', 'data': { 'x': 'int' }, 'returns': 'Pair', 'gen': false }
{ 'command': 'boxed', 'boxed': true, 'data': 'Inner', 'allow-oob': true, 'features': [ 'f' ] }
{ 'command': 'slow', 'data': { 'x': 'int' }, 'returns': 'Pair', 'deferred': true }
{ 'command': 'slow-list', 'returns': [ 'Pair' ], 'deferred': true }
{ 'event': 'HAPPENED', 'data': { '*kind': 'Kind', '*pair': 'Pair', 'list': [ 'str' ] } }
{ 'event': 'ALSO_HAPPENED', 'boxed': true, 'data': 'Pair' }
'''

    def setUp(self):
        super().setUp()
        self.write('other.json', "{ 'command': 'other' }\n")
        result = self.run_generator(self.SCHEMA)
        self.assertEqual((result.returncode, result.stderr), (0, ''))

    def test_prototypes(self):
        commands = self.output('qapi-commands.h')
        for line in [
                'bool qmp_other(struct vm *vm, GError **err);',
                'bool qmp_get_number(struct vm *vm, int64_t *ret, GError **err);',
                'char *qmp_get_text(struct vm *vm, const struct qmp_get_text_arg *arg, '
                'GError **err);',
                'json_t *qmp_raw(struct vm *vm, json_t *arg, GError **err);',
                'bool qmp_boxed(struct vm *vm, const Inner *arg, GError **err);',
                'bool qmp_slow(struct vm *vm, const struct qmp_slow_arg *arg, '
                'struct qmp_answer *answer, GError **err);',
                'void qmp_slow_answer(struct qmp_answer *answer, Pair *ret, GError *error);']:
            self.assertIn(line, commands.split('\n'))
        events = self.output('qapi-events.h')
        self.assertIn('void qapi_event_send_happened(struct vm *vm, bool has_kind, Kind kind, '
                      'const Pair *pair, const GPtrArray *list);', events)
        self.assertIn('void qapi_event_send_also_happened(struct vm *vm, const Pair *arg);', events)
        self.assertEqual(commands.count('qmp_other('), 1)

    def test_compiles(self):
        flags = subprocess.run(['pkg-config', '--cflags', 'glib-2.0', 'jansson'],
                               capture_output=True, text=True, check=True).stdout.split()
        # generated headers are included as qapi/..., before those of the project
        os.rename(os.path.join(self.directory.name, 'out'),
                  os.path.join(self.directory.name, 'qapi'))
        for name in ['types', 'commands', 'events', 'introspect']:
            with self.subTest(name=name):
                result = subprocess.run(
                    [os.environ.get('CC', 'cc'), '-std=gnu17', '-Wall', '-Wextra', '-Werror',
                     '-fsyntax-only', f'-I{self.directory.name}', f'-I{SOURCE_DIR}/include',
                     *flags, f'{self.directory.name}/qapi/qapi-{name}.c'],
                    capture_output=True, text=True, check=False)
                self.assertEqual((result.returncode, result.stderr), (0, ''))

    def test_introspection(self):
        text = self.output('qapi-introspect.c')
        literal = ''.join(json.loads(line) for line in re.findall(r'^    (".*");?$', text, re.M))
        entries = {entry['name']: entry for entry in json.loads(literal)}
        boxed = entries['boxed']
        self.assertEqual((boxed['allow-oob'], boxed['features']), (True, ['f']))
        inner = entries[boxed['arg-type']]
        self.assertEqual(inner['tag'], 'kind')
        self.assertEqual([variant['case'] for variant in inner['variants']], ['one', 'two'])
        self.assertEqual(entries[inner['variants'][0]['type']]['members'], [])
        names = [member['name'] for member in entries[inner['variants'][1]['type']]['members']]
        self.assertEqual(names, ['a', 'b', 'default', 'unix'])
        arg = entries[entries['get-text']['arg-type']]
        self.assertNotIn('default', arg['members'][0])
        self.assertIsNone(arg['members'][1]['default'])
        either = entries[arg['members'][0]['type']]
        self.assertEqual(either['meta-type'], 'alternate')
        self.assertEqual([member['type'] for member in either['members']][1:4],
                         ['int', 'bool', 'null'])
        self.assertNotIn('Pair', entries)
        self.assertEqual(entries['int'], {'name': 'int', 'meta-type': 'builtin',
                                          'json-type': 'int'})

    def test_output_is_stable(self):
        first = self.output('qapi-types.c')
        self.run_generator(self.SCHEMA)
        self.assertEqual(self.output('qapi-types.c'), first)


class TestProjectSchema(unittest.TestCase):
    def test_reference_is_current(self):
        result = subprocess.run(
            [sys.executable, GENERATOR, '--check',
             os.path.join(SOURCE_DIR, 'docs', 'qmp-reference.md'), SCHEMA],
            capture_output=True, text=True, check=False)
        self.assertEqual((result.returncode, result.stderr), (0, ''))


if __name__ == '__main__':
    unittest.main()
