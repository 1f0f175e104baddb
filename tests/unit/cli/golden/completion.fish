# fish completion for drover; made by 'drover completion fish'

function __drover_path
    set -l valued (string split ' ' -- ' -s --server -t --token --ca -o --output --timeout --why --name --migration-address --host --power --cpus --memory --disk --net --kernel --initrd --append --cdrom --firmware --machine --cpu-model --accelerator --datastore --label --host --host --patience --tail --limit --to --max-pause --rate-limit --to --max-pause --converge --priority --codec --channels --rate-limit --min-bandwidth --give-up --object --action --limit --host --path-on --uplink --uplink-on --mtu --switch --vlan --type --vm --host --set --plan --role --expires --who --object --limit --kinds --since')
    set -l words (commandline -opc)[2..-1]
    set -l path
    set -l skip 0
    for word in $words
        if test $skip = 1
            set skip 0
        else if string match -q -- '-*' $word
            contains -- $word $valued; and set skip 1
        else
            set path $path $word
        end
    end
    string join ' ' -- $path
end

function __drover_at
    set -l path (__drover_path)
    test "$path" = "$argv[1]"
end

function __drover_in
    set -l path (__drover_path)
    string match -q -- "$argv[1] *" "$path "
end

complete -c drover -f
complete -c drover -n '__drover_at ""' -a 'host vm task queue datastore network affinity cluster token audit events version completion help'
complete -c drover -n '__drover_at "host"' -a 'list show add enrol-token confirm-down remove'
complete -c drover -n '__drover_at "vm"' -a 'list show create start stop pause resume delete console advise forecast migrate'
complete -c drover -n '__drover_at "task"' -a 'list show watch cancel'
complete -c drover -n '__drover_at "queue"' -a 'show drain resume'
complete -c drover -n '__drover_at "datastore"' -a 'list show add remove'
complete -c drover -n '__drover_at "network"' -a 'list switch port-group'
complete -c drover -n '__drover_at "network switch"' -a 'list add remove'
complete -c drover -n '__drover_at "network port-group"' -a 'list add remove'
complete -c drover -n '__drover_at "affinity"' -a 'list show add remove'
complete -c drover -n '__drover_at "cluster"' -a 'cpu'
complete -c drover -n '__drover_at "token"' -a 'list create revoke'
complete -c drover -n '__drover_at "audit"' -a 'list verify'
complete -c drover -s s -l server -x -d 'the manager, such as https://manager:8443, or several with commas between (also DROVER_SERVER)'
complete -c drover -s t -l token -r -F -d 'file that holds the API token (also DROVER_TOKEN: the token, or an absolute path)'
complete -c drover -l ca -r -F -d 'certificate of the CA that the manager is trusted by (also DROVER_CA)'
complete -c drover -s o -l output -x -a 'table json yaml' -d 'json and yaml are the API\'s documents; default table'
complete -c drover -l no-wait -d 'start the task and print its name instead of waiting for its end'
complete -c drover -l timeout -x -d 'stop waiting after this long; the task goes on (exit status 6)'
complete -c drover -l why -x -d 'reason, written into task and audit log'
complete -c drover -s q -l quiet -d 'no progress on standard error'
complete -c drover -s h -l help -d 'help on the command'
complete -c drover -s V -l version -d 'version of this program'
complete -c drover -n '__drover_at "host show"' -a '(drover names hosts 2>/dev/null)'
complete -c drover -n '__drover_in "host add"' -l name -x -d 'what to call it; default: the address without its port'
complete -c drover -n '__drover_in "host add"' -l migration-address -x -d '1 to 8 addresses for migration data, if not the same'
complete -c drover -n '__drover_at "host enrol-token"' -a '(drover names hosts 2>/dev/null)'
complete -c drover -n '__drover_at "host confirm-down"' -a '(drover names hosts 2>/dev/null)'
complete -c drover -n '__drover_in "host confirm-down"' -l yes -d 'do not ask'
complete -c drover -n '__drover_at "host remove"' -a '(drover names hosts 2>/dev/null)'
complete -c drover -n '__drover_in "host remove"' -l force -d 'also with VMs on it, or when it is unreachable'
complete -c drover -n '__drover_in "vm list"' -l host -x -a '(drover names hosts 2>/dev/null)' -d 'only those on this host'
complete -c drover -n '__drover_in "vm list"' -l power -x -a 'stopped starting running paused incoming outgoing-done crashed unknown' -d 'only those in this state'
complete -c drover -n '__drover_at "vm show"' -a '(drover names vms 2>/dev/null)'
complete -c drover -n '__drover_in "vm create"' -l cpus -x -d 'virtual CPUs; default 1'
complete -c drover -n '__drover_in "vm create"' -l memory -x -d 'memory, such as 4G'
complete -c drover -n '__drover_in "vm create"' -l disk -x -d 'an existing image, or a new one of this size; may be repeated'
complete -c drover -n '__drover_in "vm create"' -l net -x -d 'a NIC on this port group; may be repeated'
complete -c drover -n '__drover_in "vm create"' -l kernel -x -d 'boot this kernel directly'
complete -c drover -n '__drover_in "vm create"' -l initrd -x -d 'with this initial RAM disk'
complete -c drover -n '__drover_in "vm create"' -l append -x -d 'and this kernel command line'
complete -c drover -n '__drover_in "vm create"' -l cdrom -x -d 'image in the CD-ROM drive'
complete -c drover -n '__drover_in "vm create"' -l firmware -x -a 'bios uefi' -d 'default bios'
complete -c drover -n '__drover_in "vm create"' -l machine -x -d 'q35 (default), pc, or a versioned type such as pc-q35-7.2'
complete -c drover -n '__drover_in "vm create"' -l cpu-model -x -d 'QEMU\'s name; default auto'
complete -c drover -n '__drover_in "vm create"' -l accelerator -x -a 'auto kvm tcg' -d 'default auto'
complete -c drover -n '__drover_in "vm create"' -l keep-free-pages -d 'what the guest frees stays its own; without it, it goes back to the host and is not migrated'
complete -c drover -n '__drover_in "vm create"' -l datastore -x -a '(drover names datastores 2>/dev/null)' -d 'where its folder is; default: where its first disk is'
complete -c drover -n '__drover_in "vm create"' -l label -x -d 'a label; may be repeated'
complete -c drover -n '__drover_in "vm create"' -l host -x -a '(drover names hosts 2>/dev/null)' -d 'create it there; default: the best one'
complete -c drover -n '__drover_in "vm create"' -l start -d 'start it afterwards'
complete -c drover -n '__drover_at "vm start"' -a '(drover names vms 2>/dev/null)'
complete -c drover -n '__drover_in "vm start"' -l host -x -a '(drover names hosts 2>/dev/null)' -d 'start it there; default: where it was, else the best one'
complete -c drover -n '__drover_at "vm stop"' -a '(drover names vms 2>/dev/null)'
complete -c drover -n '__drover_in "vm stop"' -l force -d 'cut the power instead of pressing the power button'
complete -c drover -n '__drover_in "vm stop"' -l patience -x -d 'how long the guest may take to power off; default 2m'
complete -c drover -n '__drover_at "vm pause"' -a '(drover names vms 2>/dev/null)'
complete -c drover -n '__drover_at "vm resume"' -a '(drover names vms 2>/dev/null)'
complete -c drover -n '__drover_at "vm delete"' -a '(drover names vms 2>/dev/null)'
complete -c drover -n '__drover_at "vm console"' -a '(drover names vms 2>/dev/null)'
complete -c drover -n '__drover_in "vm console"' -l tail -x -d 'how much of the end; default 4K'
complete -c drover -n '__drover_at "vm advise"' -a '(drover names vms 2>/dev/null)'
complete -c drover -n '__drover_in "vm advise"' -l limit -x -d 'the best N; default 20'
complete -c drover -n '__drover_in "vm advise"' -l all -d 'all hosts'
complete -c drover -n '__drover_at "vm forecast"' -a '(drover names vms 2>/dev/null)'
complete -c drover -n '__drover_in "vm forecast"' -l to -x -a '(drover names hosts 2>/dev/null)' -d 'only to this host; default: all that can take it'
complete -c drover -n '__drover_in "vm forecast"' -l max-pause -x -d 'bound on the pause, to which long round trips add; default 300ms'
complete -c drover -n '__drover_in "vm forecast"' -l rate-limit -x -d 'such as 500mbit; default none'
complete -c drover -n '__drover_in "vm forecast"' -l verify -d 'with the comparison of the guest\'s memory on both sides'
complete -c drover -n '__drover_in "vm forecast"' -l score -d 'how good the forecasts of past migrations were; without VM'
complete -c drover -n '__drover_at "vm migrate"' -a '(drover names vms 2>/dev/null)'
complete -c drover -n '__drover_in "vm migrate"' -l to -x -a '(drover names hosts 2>/dev/null)' -d 'destination; default: the best one'
complete -c drover -n '__drover_in "vm migrate"' -l max-pause -x -d 'bound on the pause, to which long round trips add; default 300ms'
complete -c drover -n '__drover_in "vm migrate"' -l converge -x -d 'help for a guest that changes too fast; default wait,throttle'
complete -c drover -n '__drover_in "vm migrate"' -l check -d 'only check, and rank the destinations'
complete -c drover -n '__drover_in "vm migrate"' -l priority -x -a 'low normal high critical' -d 'place in the queue, and part of links and processors; default normal'
complete -c drover -n '__drover_in "vm migrate"' -l verify -d 'compare the guest\'s memory on both sides (lengthens the pause)'
complete -c drover -n '__drover_in "vm migrate"' -l no-verify -d 'do not, even where that is the default: emulation before QEMU 9.0, which loses changes'
complete -c drover -n '__drover_in "vm migrate"' -l codec -x -a 'auto none lz4 zstd' -d 'default auto'
complete -c drover -n '__drover_in "vm migrate"' -l channels -x -d 'number of connections; default 0: automatic'
complete -c drover -n '__drover_in "vm migrate"' -l rate-limit -x -d 'such as 500mbit; default none'
complete -c drover -n '__drover_in "vm migrate"' -l min-bandwidth -x -d 'wait until both hosts\' links can promise this much, and keep others from it'
complete -c drover -n '__drover_in "vm migrate"' -l give-up -x -d 'cancel the migration after this long; default 1h'
complete -c drover -n '__drover_in "task list"' -l active -d 'only those that have not ended'
complete -c drover -n '__drover_in "task list"' -l object -x -d 'only about this, such as vm/web1'
complete -c drover -n '__drover_in "task list"' -l action -x -d 'only this action, such as vm.migrate'
complete -c drover -n '__drover_in "task list"' -l limit -x -d 'the newest N; default 50'
complete -c drover -n '__drover_at "task show"' -a '(drover names tasks 2>/dev/null)'
complete -c drover -n '__drover_at "task watch"' -a '(drover names tasks 2>/dev/null)'
complete -c drover -n '__drover_at "task cancel"' -a '(drover names tasks 2>/dev/null)'
complete -c drover -n '__drover_at "datastore show"' -a '(drover names datastores 2>/dev/null)'
complete -c drover -n '__drover_in "datastore add"' -l local -d 'one per host under one name, not one and the same on all hosts'
complete -c drover -n '__drover_in "datastore add"' -l host -x -a '(drover names hosts 2>/dev/null)' -d 'only on this host; may be repeated; default: all'
complete -c drover -n '__drover_in "datastore add"' -l path-on -x -d 'path where it differs; may be repeated'
complete -c drover -n '__drover_at "datastore remove"' -a '(drover names datastores 2>/dev/null)'
complete -c drover -n '__drover_in "network switch add"' -l uplink -x -d 'the hosts\' network interface; default: none, isolated'
complete -c drover -n '__drover_in "network switch add"' -l uplink-on -x -d 'uplink where it differs; may be repeated'
complete -c drover -n '__drover_in "network switch add"' -l mtu -x -d 'default 1500'
complete -c drover -n '__drover_at "network switch remove"' -a '(drover names switches 2>/dev/null)'
complete -c drover -n '__drover_in "network port-group add"' -l switch -x -a '(drover names switches 2>/dev/null)' -d 'the switch it is on'
complete -c drover -n '__drover_in "network port-group add"' -l vlan -x -d 'VLAN; default 0: none'
complete -c drover -n '__drover_at "network port-group remove"' -a '(drover names port-groups 2>/dev/null)'
complete -c drover -n '__drover_at "affinity show"' -a '(drover names affinity-rules 2>/dev/null)'
complete -c drover -n '__drover_in "affinity add"' -l type -x -a 'keep-together keep-apart run-on keep-off' -d 'on one host, on a host each, only on these hosts, or not on them'
complete -c drover -n '__drover_in "affinity add"' -l vm -x -a '(drover names vms 2>/dev/null)' -d 'a virtual machine that it is about; may be repeated'
complete -c drover -n '__drover_in "affinity add"' -l host -x -a '(drover names hosts 2>/dev/null)' -d 'a host of run-on or keep-off; may be repeated'
complete -c drover -n '__drover_in "affinity add"' -l should -d 'only prefer what keeps it; default: what breaks it is refused'
complete -c drover -n '__drover_at "affinity remove"' -a '(drover names affinity-rules 2>/dev/null)'
complete -c drover -n '__drover_in "cluster cpu"' -l set -x -d 'none, auto, or a model: MODEL[,+FEATURE|,-FEATURE]...'
complete -c drover -n '__drover_in "cluster cpu"' -l plan -x -d 'only say what it would need'
complete -c drover -n '__drover_in "token create"' -l role -x -a 'admin read-only' -d 'default read-only'
complete -c drover -n '__drover_in "token create"' -l expires -x -d 'works for this many days; default: until revoked'
complete -c drover -n '__drover_at "token revoke"' -a '(drover names tokens 2>/dev/null)'
complete -c drover -n '__drover_in "audit list"' -l who -x -d 'only by this caller'
complete -c drover -n '__drover_in "audit list"' -l object -x -d 'only about this, such as vm/web1'
complete -c drover -n '__drover_in "audit list"' -l limit -x -d 'the newest N; default 50'
complete -c drover -n '__drover_in "events"' -l kinds -x -d 'only of these, such as vm,task'
complete -c drover -n '__drover_in "events"' -l since -x -d 'start after this revision; default: now'
complete -c drover -n '__drover_at completion' -a 'bash zsh fish'
