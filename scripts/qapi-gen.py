#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Generates C code and documentation from the QAPI schema.

    scripts/qapi-gen.py -o DIR SCHEMA        writes qapi-{types,commands,events,introspect}.{c,h}
                                             and qmp-reference.md into DIR
    scripts/qapi-gen.py --docs FILE SCHEMA   writes only the reference, to FILE
    scripts/qapi-gen.py --check FILE SCHEMA  fails when FILE is not the current reference

Needs only Python's standard library. Errors are one line with file and line of the schema.
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True  # the source tree stays clean

from qapi import gen_c, gen_docs, gen_introspect  # noqa: E402
from qapi.parser import Parser, QapiError  # noqa: E402
from qapi.schema import Schema  # noqa: E402


def write(path, text):
    with open(path, 'w', encoding='utf-8') as file:
        file.write(text)


def generate(schema, directory, depfile, files):
    types = gen_c.Types(schema)
    outputs = {
        'qapi-types.h': gen_c.types_header(types),
        'qapi-types.c': gen_c.types_source(types),
        'qapi-commands.h': gen_c.commands_header(types),
        'qapi-commands.c': gen_c.commands_source(types),
        'qapi-events.h': gen_c.events_header(types),
        'qapi-events.c': gen_c.events_source(types),
        'qapi-introspect.h': gen_introspect.introspect_header(),
        'qapi-introspect.c': gen_introspect.introspect_source(schema),
        'qmp-reference.md': gen_docs.Reference(schema).text(),
    }
    os.makedirs(directory, exist_ok=True)
    for name, text in outputs.items():
        write(os.path.join(directory, name), text)
    if depfile:
        targets = ' '.join(os.path.join(directory, name) for name in outputs)
        write(depfile, f'{targets}: {" ".join(files)}\n')


def main():
    options = argparse.ArgumentParser(description='Generates code and documentation from QAPI.')
    options.add_argument('-o', '--output', metavar='DIR', help='where generated files go')
    options.add_argument('--depfile', metavar='FILE', help='write dependencies in make form')
    options.add_argument('--docs', metavar='FILE', help='write the QMP reference to FILE')
    options.add_argument('--check', metavar='FILE', help='fail when FILE is out of date')
    options.add_argument('schema', help='the schema file that includes all others')
    args = options.parse_args()
    parser = Parser()
    try:
        parser.read(args.schema)
        schema = Schema(parser)
    except QapiError as error:
        sys.exit(str(error))
    if args.output:
        generate(schema, args.output, args.depfile, parser.files)
    if args.docs:
        write(args.docs, gen_docs.Reference(schema).text())
    if args.check:
        with open(args.check, encoding='utf-8') as file:
            if file.read() != gen_docs.Reference(schema).text():
                sys.exit(f'{args.check} is out of date, run: {sys.argv[0]} --docs {args.check} '
                         f'{args.schema}')


if __name__ == '__main__':
    main()
