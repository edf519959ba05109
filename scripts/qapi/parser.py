# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads files in the QAPI language into a flat list of expressions.

The language is JSON with single quotes and without null and numbers; `#` starts a comment, and a
comment between two lines of `##` documents the definition that follows it. An `include` expression
pulls in another file once, however often it is named.

This stage knows syntax only. What an expression means is checked in schema.py. Every error is a
QapiError that carries file and line; nothing is guessed or skipped.
"""

import os
import re


class QapiError(Exception):
    """One sentence about one place in the schema."""

    def __init__(self, where, message):
        super().__init__(f'{where}: {message}')


class Where:
    """A place in a file."""

    def __init__(self, path, line):
        self.path = path
        self.line = line

    def __str__(self):
        return f'{self.path}:{self.line}'


class Doc:
    """A documentation comment: text, one section per argument or value, and 'Since'."""

    SECTION = re.compile(r'@([A-Za-z0-9_.-]+):\s?(.*)$')
    TAG = re.compile(r'(Returns|Errors|Note|Notes|Since|Features|Example):\s?(.*)$')

    def __init__(self, lines, where):
        self.where = where
        self.symbol = None
        self.title = None
        self.body = []
        self.args = {}
        self.features = {}
        self.tags = {}
        self._read(lines)

    def _read(self, lines):
        into = self.body
        named = self.args
        for number, line in enumerate(lines, self.where.line + 1):
            where = Where(self.where.path, number)
            if line.startswith('= '):
                self.title = line[2:].strip()
                continue
            match = self.SECTION.match(line)
            if match:
                name, rest = match.groups()
                if self.symbol is None and not self.body and not self.args:
                    self.symbol = name
                    if rest:
                        raise QapiError(where, f"Text must start on a line below '@{name}:'")
                    continue
                if name in named:
                    raise QapiError(where, f"'@{name}:' is documented twice")
                into = named[name] = [rest] if rest else []
                continue
            match = self.TAG.match(line)
            if match:
                tag, rest = match.groups()
                if tag == 'Features':
                    named = self.features
                    into = []
                    continue
                into = self.tags.setdefault(tag, [])
                if rest:
                    into.append(rest)
                continue
            into.append(line)

    @property
    def since(self):
        return paragraph(self.tags.get('Since', []))


def paragraph(lines):
    """Joins lines into text: a blank line starts a paragraph, what is indented stays as it is."""
    paragraphs = []
    current = []
    for line in lines + ['']:
        if line.strip():
            current.append(line.strip())
        elif current:
            paragraphs.append(' '.join(current))
            current = []
    return '\n\n'.join(paragraphs)


class Expression:
    """One top-level expression with the documentation in front of it."""

    def __init__(self, value, doc, where):
        self.value = value
        self.doc = doc
        self.where = where


TOKEN = re.compile(r"""(?P<space>[ \t\r]+)
                     |(?P<newline>\n)
                     |(?P<doc>\#\#[ ]*\n(?:[ \t]*\#(?!\#).*\n)*[ \t]*\#\#[ ]*(?=\n|$))
                     |(?P<comment>\#[^\n]*)
                     |(?P<punct>[{}\[\]:,])
                     |(?P<string>'(?:[^'\\\n]|\\['\\])*')
                     |(?P<word>true|false)(?![A-Za-z0-9_])""", re.VERBOSE)


class Lexer:
    """Cuts the text of one file into tokens: (kind, value, line)."""

    def __init__(self, path, text):
        self.path = path
        self.tokens = []
        position = 0
        line = 1
        while position < len(text):
            match = TOKEN.match(text, position)
            if not match:
                raise QapiError(Where(path, line), f'Stray {text[position]!r}')
            kind = match.lastgroup
            value = match.group()
            if kind == 'string':
                self.tokens.append(('string', re.sub(r'\\(.)', r'\1', value[1:-1]), line))
            elif kind in ('punct', 'word', 'doc'):
                self.tokens.append((kind, value, line))
            elif kind == 'comment' and value.startswith('##') and not value.strip('# '):
                raise QapiError(Where(path, line), "A documentation comment lacks its end '##'")
            line += value.count('\n')
            position = match.end()
        self.tokens.append(('end', '', line))


class Parser:
    """Parses a file and what it includes; `files` lists every file read, for dependency output."""

    def __init__(self):
        self.expressions = []
        self.files = []
        self.pragmas = {'doc-required': False, 'command-name-exceptions': [],
                        'command-returns-exceptions': [], 'documentation-exceptions': [],
                        'member-name-exceptions': []}

    def read(self, path, included_from=None):
        real = os.path.realpath(path)
        if real in [os.path.realpath(name) for name in self.files]:
            return
        try:
            with open(path, encoding='utf-8') as file:
                text = file.read()
        except OSError as error:
            raise QapiError(included_from or path, f'Cannot read {path}: {error.strerror}') from None
        self.files.append(path)
        tokens = iter(Lexer(path, text).tokens)
        self._file(path, tokens)

    def _file(self, path, tokens):
        doc = None
        while True:
            kind, value, line = next(tokens)
            where = Where(path, line)
            if kind == 'end':
                break
            if kind == 'doc':
                if doc and doc.symbol:
                    raise QapiError(doc.where, f"Documentation of '{doc.symbol}' lacks its definition")
                doc = Doc([re.sub(r'^[ \t]*# ?', '', text).rstrip() for text in
                           value.split('\n')[1:-1]], where)
                if doc.symbol is None:
                    self.expressions.append(Expression(None, doc, where))
                    doc = None
                continue
            if (kind, value) != ('punct', '{'):
                raise QapiError(where, "Expected '{' at the start of an expression")
            expression = self._object(path, tokens, where)
            if 'include' in expression:
                self._include(path, expression, doc, where)
            elif 'pragma' in expression:
                self._pragma(expression, where)
            else:
                self.expressions.append(Expression(expression, doc, where))
            doc = None
        if doc and doc.symbol:
            raise QapiError(doc.where, f"Documentation of '{doc.symbol}' lacks its definition")

    def _include(self, path, expression, doc, where):
        if doc or set(expression) != {'include'} or not isinstance(expression['include'], str):
            raise QapiError(where, "An include takes one file name and no documentation")
        self.read(os.path.join(os.path.dirname(path), expression['include']), where)

    def _pragma(self, expression, where):
        pragma = expression['pragma']
        if set(expression) != {'pragma'} or not isinstance(pragma, dict):
            raise QapiError(where, 'A pragma takes one object')
        for name, value in pragma.items():
            if name not in self.pragmas:
                raise QapiError(where, f"Unknown pragma '{name}'")
            if not isinstance(value, type(self.pragmas[name])):
                raise QapiError(where, f"Pragma '{name}' has the wrong type of value")
            if isinstance(value, list):
                self.pragmas[name] = self.pragmas[name] + value
            else:
                self.pragmas[name] = value

    def _value(self, path, tokens, token):
        kind, value, line = token
        where = Where(path, line)
        if kind == 'string':
            return value
        if kind == 'word':
            return value == 'true'
        if value == '{' and kind == 'punct':
            return self._object(path, tokens, where)
        if value == '[' and kind == 'punct':
            return self._array(path, tokens)
        raise QapiError(where, f"Expected a value, found '{value or 'the end of the file'}'")

    def _object(self, path, tokens, start):
        result = {}
        token = next(tokens)
        if token[:2] == ('punct', '}'):
            return result
        while True:
            kind, key, line = token
            where = Where(path, line)
            if kind != 'string':
                raise QapiError(where, 'Expected a name in single quotes')
            if next(tokens)[:2] != ('punct', ':'):
                raise QapiError(where, f"Expected ':' behind '{key}'")
            if key in result:
                raise QapiError(where, f"Duplicate key '{key}'")
            result[key] = self._value(path, tokens, next(tokens))
            kind, value, line = next(tokens)
            if (kind, value) == ('punct', '}'):
                return result
            if (kind, value) != ('punct', ','):
                raise QapiError(Where(path, line), f"Expected ',' or '}}' in the object of {start}")
            token = next(tokens)

    def _array(self, path, tokens):
        result = []
        token = next(tokens)
        if token[:2] == ('punct', ']'):
            return result
        while True:
            result.append(self._value(path, tokens, token))
            kind, value, line = next(tokens)
            if (kind, value) == ('punct', ']'):
                return result
            if (kind, value) != ('punct', ','):
                raise QapiError(Where(path, line), "Expected ',' or ']' in a list")
            token = next(tokens)
