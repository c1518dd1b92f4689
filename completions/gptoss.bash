# Completion of gptoss for bash. Install it as share/bash-completion/completions/gptoss, or source it.

_gptoss() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
    local common="-v --verbose -q --quiet --color --debug -V --version -h --help"
    local turn="-m --model -e --effort -s --instructions -t --temperature --top-p --top-k --seed --max-tokens
        --think-budget --free-headers --context --dtype --reasoning"
    local ask="--efforts --json"
    local download="--revision --dry-run --json -y --yes" verify="--quick --json" list="--json"
    local remove="--partial -y --yes"
    local command="" word index

    # --color=never arrives as three words.
    if [[ $current == "=" ]]; then
        current=""
    elif [[ $previous == "=" ]]; then
        previous=${COMP_WORDS[COMP_CWORD-2]}
    fi

    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        case $word in
            ask | chat | download | verify | list | remove)
                command=$word
                break
                ;;
        esac
    done

    COMPREPLY=()
    case $previous in
        --color) COMPREPLY=($(compgen -W "auto always never" -- "$current")) ;;
        -m | --model) COMPREPLY=($(compgen -W "20b 120b demo" -- "$current") $(compgen -d -- "$current")) ;;
        -e | --effort) COMPREPLY=($(compgen -W "none low medium high" -- "$current")) ;;
        --dtype) COMPREPLY=($(compgen -W "float32 bfloat16" -- "$current")) ;;
        --reasoning) COMPREPLY=($(compgen -W "show hide" -- "$current")) ;;
        -s | --instructions)
            if [[ $current == @* ]]; then
                COMPREPLY=($(compgen -f -P @ -- "${current#@}"))
            fi
            ;;
        -t | --temperature | --top-p | --top-k | --seed | --max-tokens | --think-budget | --context | --efforts | --revision) ;;
        *)
            case $command in
                ask) [[ $current == -* ]] && COMPREPLY=($(compgen -W "$ask $turn $common" -- "$current")) ;;
                chat) [[ $current == -* ]] && COMPREPLY=($(compgen -W "$turn $common" -- "$current")) ;;
                download | remove)
                    if [[ $current == -* ]]; then
                        COMPREPLY=($(compgen -W "${!command} $common" -- "$current"))
                    else
                        COMPREPLY=($(compgen -W "20b 120b" -- "$current"))
                    fi
                    ;;
                verify)
                    if [[ $current == -* ]]; then
                        COMPREPLY=($(compgen -W "$verify $common" -- "$current"))
                    else
                        COMPREPLY=($(compgen -W "20b 120b demo" -- "$current") $(compgen -d -- "$current"))
                    fi
                    ;;
                list) COMPREPLY=($(compgen -W "$list $common" -- "$current")) ;;
                *) COMPREPLY=($(compgen -W "ask chat download verify list remove $common" -- "$current")) ;;
            esac
            ;;
    esac
    return 0
}

complete -F _gptoss gptoss
