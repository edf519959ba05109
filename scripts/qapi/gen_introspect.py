# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes what query-qmp-schema returns.

Clients must not rely on type names, so types appear under numbers; commands, events and built-in
types keep their names. Integer types of all widths appear as 'int', as the wire knows only one.
Only what a command or event reaches is listed.
"""

import json

from .gen_c import HEAD
from .schema import Alternate, Array, Builtin, Enum, Object


class Introspection:
    def __init__(self, schema):
        self.schema = schema
        self.entries = []
        self.numbers = {}
        self.names = set()
        self.queue = []
        for command in schema.commands:
            entry = {'name': command.name, 'meta-type': 'command',
                     'arg-type': self._arg(command.arg), 'ret-type': self._arg(command.ret)}
            if command.oob:
                entry['allow-oob'] = True
            self._add(entry, command.features)
        for event in schema.events:
            self._add({'name': event.name, 'meta-type': 'event',
                       'arg-type': self._arg(event.arg)}, event.features)
        while self.queue:
            self._type(*self.queue.pop(0))

    def _add(self, entry, features):
        if features:
            entry['features'] = features
        self.entries.append(entry)

    def _arg(self, type_):
        """Commands without arguments or result use the empty object."""
        return self._name(type_) if type_ else self._name('empty')

    def _name(self, type_):
        if isinstance(type_, Builtin):
            name = 'int' if type_.json_type == 'int' else type_.name
        elif isinstance(type_, Array):
            name = f'[{self._name(type_.element)}]'
        else:
            if isinstance(type_, Object) and not type_.members and not type_.variants:
                type_ = 'empty'
            name = self.numbers.setdefault(type_, str(len(self.numbers)))
        if name not in self.names:
            self.names.add(name)
            self.queue.append((name, type_))
        return name

    def _members(self, members):
        result = []
        for member in members:
            entry = {'name': member.name, 'type': self._name(member.type)}
            if member.optional:
                entry['default'] = None
            if member.features:
                entry['features'] = member.features
            result.append(entry)
        return result

    def _type(self, name, type_):
        if type_ == 'empty':
            self._add({'name': name, 'meta-type': 'object', 'members': []}, [])
        elif isinstance(type_, Builtin):
            self._add({'name': name, 'meta-type': 'builtin', 'json-type': type_.json_type}, [])
        elif isinstance(type_, Array):
            self._add({'name': name, 'meta-type': 'array',
                       'element-type': self._name(type_.element)}, [])
        elif isinstance(type_, Enum):
            members = []
            for value in type_.values:
                members.append({'name': value.name})
                if value.features:
                    members[-1]['features'] = value.features
            self._add({'name': name, 'meta-type': 'enum', 'members': members,
                       'values': [value.name for value in type_.values]}, type_.features)
        elif isinstance(type_, Alternate):
            self._add({'name': name, 'meta-type': 'alternate',
                       'members': [{'type': self._name(b.type)} for b in type_.branches]},
                      type_.features)
        else:
            entry = {'name': name, 'meta-type': 'object', 'members': self._members(type_.members)}
            if type_.tag:
                entry['tag'] = type_.tag.name
                entry['variants'] = [
                    {'case': value.name,
                     'type': self._arg(type_.variants.get(value.name))}
                    for value in type_.tag.type.values]
            self._add(entry, type_.features)


def introspect_header():
    return HEAD + '''#ifndef QAPI_QAPI_INTROSPECT_H
#define QAPI_QAPI_INTROSPECT_H

/* The reply to query-qmp-schema, as JSON text. */
extern const char qapi_introspection_text[];

#endif
'''


def introspect_source(schema):
    lines = [HEAD.rstrip('\n'), '#include "qapi/qapi-introspect.h"', '',
             'const char qapi_introspection_text[] =']
    entries = Introspection(schema).entries
    for index, entry in enumerate(entries):
        text = ('[' if index == 0 else '') + json.dumps(entry) \
            + (']' if index == len(entries) - 1 else ',')
        lines.append('    "' + text.replace('\\', '\\\\').replace('"', '\\"') + '"')
    lines[-1] += ';'
    return '\n'.join(lines) + '\n'
