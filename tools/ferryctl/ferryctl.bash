# SPDX-License-Identifier: GPL-2.0-or-later
#
# Completion of ferryctl for bash. Commands and options come from ferryctl's own --help, machines from
# the run folders, so there is nothing here to keep up to date but the values of a few options.

_ferryctl_words() {
    # the first word of the lines between "Commands:" and an empty line
    ferryctl --help 2>/dev/null | sed -n '/^Commands:/,/^$/s/^  \([a-z-]*\) .*/\1/p'
}

_ferryctl_options() {
    # --name and -x of "  -x, --name=VALUE   text"
    ferryctl $1 --help 2>/dev/null |
        sed -n 's/^  \(-[a-zA-Z], \)\?\(--[a-z-]*\)[ =].*/\1\2/p; s/^  \(--[a-z-]*\)$/\1/p' | tr -d ','
}

_ferryctl_machines() {
    local socket
    for socket in "${XDG_RUNTIME_DIR:-/nonexistent}"/ferry/*.qmp /run/ferry/*.qmp; do
        [ -S "$socket" ] || continue
        socket=${socket##*/}
        echo "${socket%.qmp}"
    done
}

# Puts the words that begin like the current one into COMPREPLY.
_ferryctl_offer() {
    local word
    COMPREPLY=()
    while read -r word; do
        [[ $word == "$cur"* ]] && COMPREPLY+=("$word")
    done
}

_ferryctl_files() {
    local file
    compopt -o filenames 2>/dev/null
    COMPREPLY=()
    while read -r file; do
        COMPREPLY+=("$file")
    done < <(compgen -f -- "$cur")
}

_ferryctl() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command= i
    local policies="legacy minimal-downtime post-copy suspend very-large custom"

    # "--peer=qemu" arrives as three words
    if [[ $cur == "=" ]]; then
        cur=
    elif [[ $prev == "=" && COMP_CWORD -ge 2 ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi

    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        -s | --socket | -w | --wait) ((i++)) ;;
        -*) ;;
        *)
            command=${COMP_WORDS[i]}
            break
            ;;
        esac
    done

    case $prev in
    -s | --socket) _ferryctl_offer < <(_ferryctl_machines) ;;
    --peer) _ferryctl_offer < <(printf '%s\n' ferry qemu) ;;
    --policy) _ferryctl_offer < <(printf '%s\n' $policies) ;;
    -o | --output | -f | --from) _ferryctl_files ;;
    -w | --wait | -i | --interval | --timeout | --max-downtime | --bandwidth | --post-copy-after | \
        --step | --progress-timeout | --completion-timeout | --completion-timeout-per-gib) COMPREPLY=() ;;
    *)
        if [[ -z $command ]]; then
            if [[ $cur == -* ]]; then
                _ferryctl_offer < <(_ferryctl_options "" | tr ' ' '\n')
            else
                _ferryctl_offer < <(_ferryctl_words)
            fi
        elif [[ $cur == -* ]]; then
            _ferryctl_offer < <(_ferryctl_options "$command" | tr ' ' '\n')
        elif [[ $command == policy ]]; then
            _ferryctl_offer < <(printf '%s\n' $policies)
        elif [[ $command == migrate || $command == check || $command == resume ]]; then
            # a colon ends a word: behind "unix:" and "file:" the word is the path alone
            if [[ $prev == ":" || $cur == /* || $cur == .* ]]; then
                _ferryctl_files
            else
                compopt -o nospace 2>/dev/null
                _ferryctl_offer < <(printf '%s\n' tcp: unix: file:)
            fi
        fi
        ;;
    esac
}

complete -F _ferryctl ferryctl
