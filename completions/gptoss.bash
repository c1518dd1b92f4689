# Completion of gptoss for bash. Install it as share/bash-completion/completions/gptoss, or source it.

_gptoss_words() { COMPREPLY=($(compgen -W "$1" -- "$current")); }

_gptoss_files() {
    local IFS=$'\n'
    compopt -o filenames 2> /dev/null
    COMPREPLY=($(compgen -f -- "$current"))
}

# Files after an @. As file names bash would write \@.
_gptoss_texts() {
    local IFS=$'\n' name
    for name in $(compgen -f -- "${current#@}"); do
        if [[ -d $name ]]; then
            compopt -o nospace 2> /dev/null
            COMPREPLY+=("@$(printf %q "$name")/")
        else
            COMPREPLY+=("@$(printf %q "$name")")
        fi
    done
}

# The values of a model: a name (some commands know more, $1), an installed checkpoint, any other folder.
_gptoss_models() {
    local IFS=$'\n' data=${XDG_DATA_HOME:-$HOME/.local/share}/gptoss installed
    local names="20b 120b safeguard safeguard-120b demo${1:+ $1}"
    if [[ -n $GPTOSS_HOME ]]; then
        data=$GPTOSS_HOME/data
    fi
    installed=$(cd "$data/checkpoints" 2> /dev/null && compgen -d)
    installed=${installed//--/\/}  # the folder of OWNER/NAME
    COMPREPLY=($(compgen -W "${names// /$IFS}$IFS$installed" -- "$current") $(compgen -d -- "$current"))
}

# The names of the prompt templates.
_gptoss_templates() {
    local IFS=$'\n' config=${XDG_CONFIG_HOME:-$HOME/.config}/gptoss names
    if [[ -n $GPTOSS_HOME ]]; then
        config=$GPTOSS_HOME/config
    fi
    names=$(cd "$config/templates" 2> /dev/null && compgen -G '*.txt')
    COMPREPLY=($(compgen -W "${names//.txt/}" -- "$current"))
}

_gptoss() {
    local words=() line=${COMP_LINE:0:COMP_POINT} word index
    # bash splits words at = @ and : (COMP_WORDBREAKS). Join what was typed as one.
    for ((index = 0; index <= COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        if ((index == 0)) || [[ $line == [[:space:]]* ]]; then
            words+=("$word")
        else
            words[${#words[@]}-1]+=$word
        fi
        line=${line#"${line%%[![:space:]]*}"}
        line=${line#"$word"}
    done
    local last=$((${#words[@]} - 1))
    local current=${words[last]} previous=${words[last-1]} option=""
    if [[ $current == --*=* ]]; then
        option=${current%%=*}=
        previous=${option%=}
        current=${current#*=}
    fi

    _gptoss_candidates

    # bash replaces only what follows the last of these characters, and an @ too.
    local breaks=${COMP_WORDBREAKS//[^=@:]/} consumed=""
    if [[ -n $breaks ]]; then
        consumed=${current%"${current##*[$breaks]}"}
        consumed=${consumed%@}
    fi
    if [[ -n $consumed || $breaks == *=* ]]; then
        option=""
    fi
    COMPREPLY=("${COMPREPLY[@]#"$consumed"}")
    COMPREPLY=("${COMPREPLY[@]/#/$option}")
    return 0
}

_gptoss_candidates() {
    local common="-v --verbose -q --quiet --color --debug -V --version -h --help"
    local turn="-m --model -e --effort -s --instructions -t --temperature --top-p --top-k --date --seed --max-tokens
        --think-budget --free-headers --context --execution --device --gpu-memory --dtype --dense --activations --threads
        --no-prefix-cache --kv-limit --reasoning --server --server-model --server-api --api-key-file"
    local server="--server --server-model --server-api --api-key-file"
    local ask="-f --file --template --param --json --stream-json --no-stream -x --extract -o --output --timeout --stop --schema --choice
        --efforts --logprobs -c --continue --resume --save --no-save --title --save-reasoning --no-save-reasoning"
    local chat="-f --file --template --param --plain --vi -c --continue --resume --at --fork --save --no-save
        --save-reasoning --no-save-reasoning"
    local download="--revision --dry-run --json -y --yes" verify="--quick --json" remove="--partial -y --yes"
    local convert="--exact --dry-run --json"
    local plan="--gpu-memory --ram --context --conversations --execution --device --dense --activations --json $server"
    local bench="--context --prompt --generate --repeat --kernels --random-weights --execution --device --gpu-memory --dense --activations --threads --json $server"
    local serve="-m --model --host --port --api-key-file -e --effort --queue --conversations --batch --idle-unload --kv-limit
        --reasoning-field --allow-origin --context --execution --device --gpu-memory --dense --activations --threads --server --server-model --server-api --server-key-file"
    local compare="--by --context --benchmarks --explain --json"
    local evaluate="--efforts --repeat -o --output --json"
    local inspect="--diagram --tensors --sinks --rope --experiment --prompt --json"
    local conversations="list show search export import rename rm prune backup path check"
    local conversations_list="-n --all --json" conversations_show="--reasoning --raw --branch --json"
    local conversations_search="-n --latest --reasoning --json" conversations_rm="--all -y --yes"
    local conversations_prune="--older-than --keep --dry-run -y --yes"
    local conversations_export="--all -f --format -o --output --reasoning --force"
    local settings="color history.save history.reasoning history.kv-limit history.ask model effort instructions temperature top-p top-k date seed
        max-tokens think-budget context execution device gpu-memory dtype dense activations threads reasoning timeout
        server.url server.model server.api server.key-file"
    local command="" inner="" word index

    for ((index = 1; index < last; index++)); do
        word=${words[index]}
        case $word in
            ask | chat | download | convert | verify | list | remove | plan | doctor | bench | serve | compare | inspect | evaluate | conversations | cache | config | completions)
                command=$word
                break
                ;;
        esac
    done

    if [[ $command == conversations ]]; then
        for ((index++; index < last; index++)); do
            word=${words[index]}
            if [[ " $conversations " == *" $word "* ]]; then
                inner=$word
                break
            fi
        done
    fi

    COMPREPLY=()
    if [[ $command == config && ${words[index+1]} == set && index+1 -lt last && $current != -* ]]; then
        if ((last == index + 2)); then
            _gptoss_words "$settings"
            return 0
        fi
        case $previous in
            history.kv-limit) return 0 ;;
            history.*) previous="" && _gptoss_words "true false" && return 0 ;;
            *) previous=--$previous ;; # its values are those of the option
        esac
    fi
    if [[ -n $inner && $previous == --reasoning ]]; then
        previous="" # a flag there
    fi
    if [[ $inner == export && ($previous == -f || $previous == --format) ]]; then
        _gptoss_words "md json jsonl chatgpt"
        return 0
    fi
    case $previous in
        --color) _gptoss_words "auto always never" ;;
        -m | --model) _gptoss_models ;;
        -e | --effort) _gptoss_words "none low medium high" ;;
        --execution) _gptoss_words "auto mxfp4 offload cpu" ;;
        --device) _gptoss_words "auto cpu cuda" ;;
        --dtype) _gptoss_words "float32 bfloat16" ;;
        --dense) _gptoss_words "bf16 int8" ;;
        --activations) _gptoss_words "int16 int8" ;;
        --reasoning) _gptoss_words "show collapse hide" ;;
        --server-api) _gptoss_words "vllm sglang llama" ;;
        --reasoning-field) _gptoss_words "reasoning reasoning_content none" ;;
        --by) _gptoss_words "depth experts size memory compute" ;;
        --experiment) _gptoss_words "k-bias" ;;
        --random-weights) _gptoss_words "20b 120b" ;;
        --template) _gptoss_templates ;;
        -f | --file | -o | --output | --schema | --api-key-file | --server-key-file) _gptoss_files ;;
        -s | --instructions)
            if [[ $current == @* ]]; then
                _gptoss_texts
            fi
            ;;
        -t | --temperature | --top-p | --top-k | --date | --seed | --max-tokens | --think-budget | --context | --efforts | --logprobs) ;;
        --threads | --timeout | --stop | --choice | --revision | --gpu-memory | --kv-limit | --ram | --prompt | --generate | --repeat | --explain) ;;
        --server | --server-model | --resume | --title | --at | --branch | -n | --param | --host | --port | --queue | --allow-origin) ;;
        *)
            case $command in
                ask) [[ $current == -* ]] && _gptoss_words "$ask $turn $common" ;;
                evaluate)
                    if [[ $current == -* ]]; then
                        _gptoss_words "$evaluate $turn $common"
                    else
                        _gptoss_files
                    fi
                    ;;
                chat) [[ $current == -* ]] && _gptoss_words "$chat $turn $common" ;;
                download | remove) _gptoss_arguments "20b 120b safeguard safeguard-120b" "${!command} $common" ;;
                convert | verify | plan | bench)
                    if [[ $current == -* ]]; then
                        _gptoss_words "${!command} $common"
                    else
                        _gptoss_models
                    fi
                    ;;
                serve) _gptoss_words "$serve $common" ;;
                compare | inspect)
                    if [[ $current == -* ]]; then
                        _gptoss_words "${!command} $common"
                    else
                        _gptoss_models "gpt2-xl qwen3-30b-a3b qwen3-235b-a22b"
                    fi
                    ;;
                conversations)
                    if [[ -z $inner ]]; then
                        _gptoss_arguments "$conversations" "$common"
                    elif [[ $current == -* ]]; then
                        word=conversations_$inner
                        _gptoss_words "${!word} $common"
                    elif [[ $inner == import || $inner == backup ]]; then
                        _gptoss_files
                    fi
                    ;;
                list) _gptoss_words "--json $common" ;;
                doctor) _gptoss_words "--gpu --json $server $common" ;;
                cache) _gptoss_arguments "list clear" "--json -y --yes --kv-limit $common" ;;
                config) _gptoss_arguments "show path edit set" "--json $common" ;;
                completions) _gptoss_arguments "bash zsh fish powershell" "$common" ;;
                *) _gptoss_words "ask chat download convert verify list remove plan doctor bench serve compare inspect evaluate conversations cache config completions $common" ;;
            esac
            ;;
    esac
    return 0
}

_gptoss_arguments() {
    if [[ $current == -* ]]; then
        _gptoss_words "$2"
    else
        _gptoss_words "$1"
    fi
}

complete -F _gptoss gptoss
