# SPDX-License-Identifier: GPL-2.0-or-later
"""What the expressions mean: types, commands and events, checked.

Schema(parser) turns expressions into objects, resolves names, and refuses whatever the back ends
could not express: unknown types and keys, members that clash in C, unions whose variants do not
match their tag, alternates whose branches look alike, definitions without documentation. After it
returns, a back end needs no checks of its own.
"""

import re

from .parser import QapiError, paragraph

# name: (C type, JSON type, name in error messages)
BUILTINS = {
    'str': ('char *', 'string'), 'any': ('json_t *', 'value'), 'null': (None, 'null'),
    'bool': ('bool', 'boolean'), 'number': ('double', 'number'),
    'int': ('int64_t', 'int'), 'int8': ('int8_t', 'int'), 'int16': ('int16_t', 'int'),
    'int32': ('int32_t', 'int'), 'int64': ('int64_t', 'int'),
    'uint8': ('uint8_t', 'int'), 'uint16': ('uint16_t', 'int'), 'uint32': ('uint32_t', 'int'),
    'uint64': ('uint64_t', 'int'), 'size': ('uint64_t', 'int'),
}

KEYWORDS = set('''alignas alignof and and_eq asm auto bitand bitor bool break case char class const
continue default delete do double else enum extern false float for goto if inline int long mutable
namespace new not not_eq or or_eq private protected public register restrict return short signed
sizeof static struct switch template this throw true try typedef typename typeof union unix unsigned
virtual void volatile wchar_t while xor xor_eq linux i386 errno'''.split())


def c_name(name):
    """A QAPI name as a C identifier."""
    name = re.sub(r'[^A-Za-z0-9_]', '_', name)
    return 'q_' + name if name in KEYWORDS or name[0].isdigit() else name


def words(name):
    """'QMPCapability' -> 'qmp_capability'; 'MigrationInfo' -> 'migration_info'."""
    name = re.sub(r'([A-Z]+)([A-Z][a-z])', r'\1_\2', name)
    name = re.sub(r'([a-z0-9])([A-Z])', r'\1_\2', name)
    return re.sub(r'[^A-Za-z0-9]', '_', name).lower()


class Type:
    """Base of all types. `pointer` types are held by pointer in C, the others by value."""

    pointer = True

    def __init__(self, name, where=None, doc=None):
        self.name = name
        self.where = where
        self.doc = doc
        self.features = []


class Builtin(Type):
    def __init__(self, name):
        super().__init__(name)
        self.c_type, self.json_type = BUILTINS[name]
        self.pointer = name in ('str', 'any')


class Enum(Type):
    pointer = False

    def __init__(self, name, values, prefix, where, doc):
        super().__init__(name, where, doc)
        self.values = values
        self.prefix = prefix or words(name).upper()

    def constant(self, value):
        return f'{self.prefix}_{re.sub("[^A-Za-z0-9]", "_", value).upper()}'


class Value:
    """A value of an enum."""

    def __init__(self, name, features):
        self.name = name
        self.features = features


class Array(Type):
    def __init__(self, element):
        super().__init__(f'[{element.name}]')
        self.element = element


class Member:
    def __init__(self, name, type_, optional, features, where):
        self.name = name
        self.type = type_
        self.optional = optional
        self.features = features
        self.where = where
        self.owner = None

    @property
    def c_name(self):
        return c_name(self.name)

    @property
    def has_flag(self):
        """Optional pointers are NULL when absent, other optional members have a has_ flag."""
        return self.optional and not self.type.pointer


class Object(Type):
    """A struct or a union; `members` are all common members, those of the base first."""

    def __init__(self, name, where, doc, implicit=False):
        super().__init__(name, where, doc)
        self.base = None
        self.local = []
        self.tag = None
        self.variants = {}
        self.implicit = implicit

    @property
    def members(self):
        return (self.base.members if self.base else []) + self.local


class Alternate(Type):
    def __init__(self, name, where, doc):
        super().__init__(name, where, doc)
        self.branches = []

    def constant(self, branch):
        return f'{words(self.name).upper()}_KIND_{c_name(branch.name).upper()}'


class Command:
    def __init__(self, name, where, doc):
        self.name = name
        self.where = where
        self.doc = doc
        self.arg = None
        self.ret = None
        self.oob = False
        self.gen = True
        self.deferred = False
        self.features = []


class Event:
    def __init__(self, name, where, doc):
        self.name = name
        self.where = where
        self.doc = doc
        self.arg = None
        self.features = []


KEYS = {
    'enum': ({'data'}, {'prefix', 'features'}),
    'struct': ({'data'}, {'base', 'features'}),
    'union': ({'base', 'discriminator', 'data'}, {'features'}),
    'alternate': ({'data'}, {'features'}),
    'command': (set(), {'data', 'returns', 'boxed', 'gen', 'allow-oob', 'deferred', 'features'}),
    'event': (set(), {'data', 'boxed', 'features'}),
}


class Schema:
    def __init__(self, parser):
        self.pragmas = parser.pragmas
        self.types = {name: Builtin(name) for name in BUILTINS}
        self.commands = []
        self.events = []
        self.chapters = []  # (title or None, doc or None, [definition]) in the order of the files
        self._pending = []
        for expression in parser.expressions:
            self._declare(expression)
        for definition, expression, fill in self._pending:
            fill(definition, expression)
        self._check()

    # --- first pass: names exist

    def _declare(self, expression):
        doc, where, value = expression.doc, expression.where, expression.value
        if value is None:
            if doc.title or not self.chapters:
                self.chapters.append((doc.title, doc, []))
            return
        meta = [key for key in value if key in KEYS]
        if len(meta) != 1:
            raise QapiError(where, 'An expression needs exactly one of ' + ', '.join(KEYS))
        meta = meta[0]
        name = value[meta]
        self._check_name(name, meta, where)
        required, allowed = KEYS[meta]
        for key in value:
            if key == 'if':
                raise QapiError(where, "'if' is not supported: the schema is the same in every build")
            if key != meta and key not in required | allowed:
                raise QapiError(where, f"{meta} '{name}' has the unknown key '{key}'")
        for key in sorted(required - set(value)):
            raise QapiError(where, f"{meta} '{name}' lacks '{key}'")
        if self.pragmas['doc-required'] and not doc:
            raise QapiError(where, f"{meta} '{name}' lacks documentation")
        if doc and doc.symbol != name:
            raise QapiError(doc.where, f"Documentation is for '{doc.symbol}', but '{name}' follows")
        definition = {'enum': self._enum, 'struct': self._struct, 'union': self._struct,
                      'alternate': self._alternate, 'command': self._command,
                      'event': self._event}[meta](name, value, expression)
        definition.features = self._features(value, where)
        if not self.chapters:
            self.chapters.append((None, None, []))
        self.chapters[-1][2].append(definition)

    def _check_name(self, name, meta, where):
        if not isinstance(name, str):
            raise QapiError(where, f'The name of a {meta} must be a string')
        pattern = {'command': r'[a-z][a-z0-9_-]*$|__[a-z0-9.-]+_[a-z0-9_-]+$',
                   'event': r'[A-Z][A-Z0-9_]*$'}.get(meta, r'[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*$')
        if not re.match(pattern, name):
            raise QapiError(where, f"'{name}' is not a good name for a {meta}")
        if name in self.types or any(name == item.name for item in self.commands + self.events):
            raise QapiError(where, f"'{name}' is defined twice")

    def _features(self, value, where):
        result = []
        for feature in value.get('features', []):
            name = feature.get('name') if isinstance(feature, dict) else feature
            if not isinstance(name, str) or not re.match(r'[a-z][a-z0-9-]*$', name):
                raise QapiError(where, f'Bad feature {feature!r}')
            result.append(name)
        return result

    def _enum(self, name, value, expression):
        if not isinstance(value['data'], list):
            raise QapiError(expression.where, f"The data of enum '{name}' must be a list")
        values = []
        for item in value['data']:
            item = {'name': item} if isinstance(item, str) else item
            if not isinstance(item, dict) or not isinstance(item.get('name'), str) \
                    or set(item) - {'name', 'features'}:
                raise QapiError(expression.where, f"enum '{name}' has the bad value {item!r}")
            if not re.match(r'[A-Za-z0-9][A-Za-z0-9._-]*$', item['name']):
                raise QapiError(expression.where, f"'{item['name']}' is not a good enum value")
            values.append(Value(item['name'], self._features(item, expression.where)))
        result = Enum(name, values, value.get('prefix'), expression.where, expression.doc)
        seen = {}
        for item in values:
            constant = result.constant(item.name)
            if constant in seen:
                raise QapiError(expression.where,
                                f"enum '{name}': '{item.name}' clashes with '{seen[constant]}'")
            seen[constant] = item.name
        self.types[name] = result
        return result

    def _struct(self, name, value, expression):
        result = Object(name, expression.where, expression.doc)
        self.types[name] = result
        self._pending.append((result, expression,
                              self._fill_union if 'union' in value else self._fill_struct))
        return result

    def _alternate(self, name, _value, expression):
        result = Alternate(name, expression.where, expression.doc)
        self.types[name] = result
        self._pending.append((result, expression, self._fill_alternate))
        return result

    def _command(self, name, _value, expression):
        result = Command(name, expression.where, expression.doc)
        self.commands.append(result)
        self._pending.append((result, expression, self._fill_command))
        return result

    def _event(self, name, _value, expression):
        result = Event(name, expression.where, expression.doc)
        self.events.append(result)
        self._pending.append((result, expression, self._fill_event))
        return result

    # --- second pass: names resolve

    def lookup(self, name, where, owner):
        if isinstance(name, list):
            if len(name) != 1:
                raise QapiError(where, f"'{owner}': a list type names exactly one type")
            element = self.lookup(name[0], where, owner)
            key = f'[{element.name}]'
            if key not in self.types:
                self.types[key] = Array(element)
            return self.types[key]
        if not isinstance(name, str) or name not in self.types:
            raise QapiError(where, f"'{owner}' uses the unknown type {name!r}")
        return self.types[name]

    def _members(self, data, where, owner):
        if not isinstance(data, dict):
            raise QapiError(where, f"The data of '{owner}' must be an object")
        result = []
        for name, item in data.items():
            optional = name.startswith('*')
            name = name[1:] if optional else name
            if not re.match(r'[a-z][a-z0-9_-]*$', name) \
                    and name not in self.pragmas['member-name-exceptions']:
                raise QapiError(where, f"'{owner}': '{name}' is not a good member name")
            item = item if isinstance(item, dict) else {'type': item}
            if set(item) - {'type', 'features'} or 'type' not in item:
                raise QapiError(where, f"'{owner}': member '{name}' has unknown keys")
            type_ = self.lookup(item['type'], where, f'{owner}.{name}')
            if type_.name == 'null':
                raise QapiError(where, f"'{owner}': member '{name}' cannot be null")
            result.append(Member(name, type_, optional, self._features(item, where), where))
        return result

    def _base(self, base, result, where):
        if isinstance(base, dict):
            result.local = self._members(base, where, result.name)
            return
        result.base = self.lookup(base, where, result.name)
        if not isinstance(result.base, Object) or result.base.tag:
            raise QapiError(where, f"The base of '{result.name}' must be a struct")

    def _fill_struct(self, result, expression):
        value, where = expression.value, expression.where
        if 'base' in value:
            if not isinstance(value['base'], str):
                raise QapiError(where, f"The base of struct '{result.name}' must be a name")
            self._base(value['base'], result, where)
        result.local = self._members(value['data'], where, result.name)

    def _fill_union(self, result, expression):
        value, where = expression.value, expression.where
        self._base(value['base'], result, where)
        result.discriminator = value['discriminator']
        if not isinstance(value['data'], dict):
            raise QapiError(where, f"The data of union '{result.name}' must be an object")
        for case, item in value['data'].items():
            item = item['type'] if isinstance(item, dict) and set(item) == {'type'} else item
            variant = self.lookup(item, where, f'{result.name}.{case}')
            if not isinstance(variant, Object):
                raise QapiError(where, f"union '{result.name}': '{case}' must be a struct or union")
            result.variants[case] = variant

    def _fill_alternate(self, result, expression):
        where = expression.where
        result.branches = []
        seen = {}
        if not isinstance(expression.value['data'], dict) or not expression.value['data']:
            raise QapiError(where, f"The data of alternate '{result.name}' must be an object")
        for name, item in expression.value['data'].items():
            type_ = self.lookup(item, where, f'{result.name}.{name}')
            kind = json_kind(type_)
            if kind in ('value', None):
                raise QapiError(where, f"alternate '{result.name}': '{name}' cannot be told apart")
            kind = 'number' if kind == 'int' else kind
            if kind in seen:
                raise QapiError(where, f"alternate '{result.name}': '{name}' looks like "
                                       f"'{seen[kind]}' in JSON")
            seen[kind] = name
            result.branches.append(Member(name, type_, False, [], where))

    def _arg(self, definition, value, where):
        data = value.get('data')
        if data is None:
            if 'boxed' in value:
                raise QapiError(where, f"'{definition.name}' is boxed but has no data")
            return None
        if isinstance(data, dict):
            if value.get('boxed'):
                raise QapiError(where, f"'{definition.name}': boxed needs a named type")
            if not data:
                return None
            implicit = Object(f'q_obj_{definition.name}-arg', where, None, implicit=True)
            implicit.local = self._members(data, where, definition.name)
            return implicit
        arg = self.lookup(data, where, definition.name)
        if not isinstance(arg, Object):
            raise QapiError(where, f"The data of '{definition.name}' must be a struct")
        return arg

    def _fill_command(self, result, expression):
        value, where = expression.value, expression.where
        result.arg = self._arg(result, value, where)
        if 'returns' in value:
            result.ret = self.lookup(value['returns'], where, result.name)
            inner = result.ret.element if isinstance(result.ret, Array) else result.ret
            if not isinstance(inner, Object) and \
                    result.name not in self.pragmas['command-returns-exceptions']:
                raise QapiError(where, f"Command '{result.name}' must return an object: "
                                       "a scalar can never be extended")
        for key in ('boxed', 'gen', 'allow-oob', 'deferred'):
            if not isinstance(value.get(key, True), bool):
                raise QapiError(where, f"'{key}' of '{result.name}' must be true or false")
        result.gen = value.get('gen', True)
        result.oob = value.get('allow-oob', False)
        result.deferred = value.get('deferred', False)
        if result.deferred and (result.oob or not result.gen or not result.ret
                                or not result.ret.pointer):
            raise QapiError(where, f"'{result.name}' is deferred: it returns an object, is generated "
                                   "and does not run out of band")

    def _fill_event(self, result, expression):
        result.arg = self._arg(result, expression.value, expression.where)

    # --- third pass: the whole is sound

    def _check(self):
        for type_ in list(self.types.values()):
            if isinstance(type_, Object):
                self._check_object(type_)
        for item in self.commands + self.events:
            if item.arg and item.arg.implicit:
                self._check_object(item.arg)
        self._check_c_names()
        for chapter in self.chapters:
            for definition in chapter[2]:
                self._check_doc(definition)

    def _check_object(self, type_):
        seen = set()
        base = type_.base
        while base:
            if base is type_ or base in seen:
                raise QapiError(type_.where, f"'{type_.name}' is its own base")
            seen.add(base)
            base = base.base
        if hasattr(type_, 'discriminator'):
            self._check_union(type_)
        names = {}
        for member in type_.members:
            self._clash(type_, names, member, type_.name)
        for case, variant in type_.variants.items():
            if variant.variants and type_ in self._reach(variant):
                raise QapiError(type_.where, f"union '{type_.name}' contains itself as '{case}'")
            branch = dict(names)
            for member in variant.members:
                self._clash(type_, branch, member, f'{type_.name}.{case}')

    def _reach(self, type_, seen=None):
        seen = seen if seen is not None else set()
        for variant in type_.variants.values():
            if variant not in seen:
                seen.add(variant)
                self._reach(variant, seen)
        return seen

    def _clash(self, type_, names, member, owner):
        name = member.c_name
        keys = [name] + ([f'has_{name}'] if member.has_flag else [])
        for key in keys:
            if key in names or key == 'u':
                raise QapiError(type_.where, f"'{owner}': member '{member.name}' clashes in C")
            names[key] = member

    def _check_union(self, type_):
        where = type_.where
        tag = [member for member in type_.members if member.name == type_.discriminator]
        if not tag:
            raise QapiError(where, f"union '{type_.name}': the base lacks the discriminator "
                                   f"'{type_.discriminator}'")
        type_.tag = tag[0]
        if not isinstance(type_.tag.type, Enum) or type_.tag.optional:
            raise QapiError(where, f"union '{type_.name}': the discriminator must be an enum "
                                   "and not optional")
        values = [value.name for value in type_.tag.type.values]
        for case in type_.variants:
            if case not in values:
                raise QapiError(where, f"union '{type_.name}': '{case}' is not a value of "
                                       f"enum '{type_.tag.type.name}'")

    def _check_c_names(self):
        seen = {}
        for type_ in self.types.values():
            if isinstance(type_, (Builtin, Array)):
                continue
            key = words(type_.name)
            if key in seen:
                raise QapiError(type_.where, f"'{type_.name}' clashes with '{seen[key]}' in C")
            seen[key] = type_.name

    def _check_doc(self, definition):
        doc = definition.doc
        if not doc:
            return
        if isinstance(definition, Enum):
            names = [value.name for value in definition.values]
        elif isinstance(definition, Alternate):
            names = [branch.name for branch in definition.branches]
        elif isinstance(definition, Object):
            names = [member.name for member in definition.local]
        else:
            arg = definition.arg
            names = [member.name for member in arg.local] if arg and arg.implicit else []
        for name in doc.args:
            if name not in names:
                raise QapiError(doc.where, f"'{definition.name}': '@{name}:' documents nothing")
        if definition.name not in self.pragmas['documentation-exceptions']:
            for name in names:
                if not paragraph(doc.args.get(name, [])):
                    raise QapiError(doc.where, f"'{definition.name}': '{name}' is not documented")
        if not doc.since:
            raise QapiError(doc.where, f"'{definition.name}' lacks a line 'Since:'")
        if not re.match(r'(QEMU|Ferry) [0-9]+\.[0-9]+(\.[0-9]+)?$', doc.since):
            raise QapiError(doc.where, f"'{definition.name}': Since is 'QEMU x.y' or 'Ferry x.y'")
        if doc.since.startswith('Ferry') != ('ferry' in definition.features):
            raise QapiError(doc.where, f"'{definition.name}': what is new in Ferry carries both "
                                       "'Since: Ferry' and the feature 'ferry'")
        for name in doc.features:
            if name not in definition.features:
                raise QapiError(doc.where, f"'{definition.name}': feature '{name}' does not exist")


def json_kind(type_):
    """The JSON type of a type, as introspection names it; None where there are several."""
    if isinstance(type_, Builtin):
        return type_.json_type
    return {Enum: 'string', Object: 'object', Array: 'array'}.get(type(type_))
