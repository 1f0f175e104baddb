# bash completion for drover; made by 'drover completion bash'

_drover_words() {
    case "$1" in
    '') echo 'host vm task queue schedule datastore network affinity pool cluster login logout whoami user role token audit api events version completion help' ;;
    'host') echo 'list show add enrol-token confirm-down label maintenance remove' ;;
    'vm') echo 'list show create start stop pause resume suspend delete console advise forecast migrate disk snapshot import export import-disk export-disk' ;;
    'vm disk') echo 'resize' ;;
    'vm snapshot') echo 'create list show revert delete' ;;
    'task') echo 'list show watch cancel' ;;
    'queue') echo 'show drain resume' ;;
    'schedule') echo 'list show create next run pause resume delete' ;;
    'datastore') echo 'list show add set maintenance remove' ;;
    'network') echo 'list switch port-group' ;;
    'network switch') echo 'list add show set upgrade remove' ;;
    'network port-group') echo 'list add remove' ;;
    'affinity') echo 'list show add remove' ;;
    'pool') echo 'list show create set delete' ;;
    'cluster') echo 'cpu' ;;
    'user') echo 'list show create grant revoke disable enable password delete' ;;
    'role') echo 'list show permissions create set delete' ;;
    'token') echo 'list create revoke' ;;
    'audit') echo 'list verify export' ;;
    esac
}

_drover_options() {
    case "$1" in
    'host add') echo '--name --migration-address --label ' ;;
    'host confirm-down') echo '--yes ' ;;
    'host label') echo '--set --remove ' ;;
    'host maintenance') echo '--on --off --return --dry-run --policy --tries --priority --max-pause --give-up ' ;;
    'host remove') echo '--force ' ;;
    'vm list') echo '--host --power ' ;;
    'vm create') echo '--cpus --memory --disk --net --kernel --initrd --append --cdrom --firmware --machine --cpu-model --accelerator --keep-free-pages --datastore --label --host --start ' ;;
    'vm start') echo '--host --discard-state ' ;;
    'vm stop') echo '--force --patience ' ;;
    'vm resume') echo '--host --patience ' ;;
    'vm suspend') echo '--patience ' ;;
    'vm console') echo '--tail ' ;;
    'vm advise') echo '--limit --all --disks ' ;;
    'vm forecast') echo '--to --max-pause --rate-limit --verify --score ' ;;
    'vm migrate') echo '--to --to-datastore --format --disk --max-pause --converge --check --priority --verify --no-verify --no-network-proof --accept --codec --channels --rate-limit --min-bandwidth --give-up ' ;;
    'vm snapshot create') echo '--description ' ;;
    'vm snapshot delete') echo '--accept-mixed-disks ' ;;
    'vm import') echo '--name --net-map --to-datastore --to-format --bus --host --give-up ' ;;
    'vm export') echo '--give-up ' ;;
    'vm import-disk') echo '--format --sha256 --to-datastore --to-format --name --bus --give-up ' ;;
    'vm export-disk') echo '--stream --give-up ' ;;
    'task list') echo '--active --object --action --limit ' ;;
    'schedule create') echo '--calendar --at --time-zone --window --missed --vm --label --to --maintenance-on --maintenance-off --return --policy --tries --priority --max-pause --give-up ' ;;
    'schedule next') echo '--count ' ;;
    'schedule run') echo '--dry-run ' ;;
    'datastore add') echo '--local --host --path-on --overcommit ' ;;
    'datastore set') echo '--overcommit ' ;;
    'datastore maintenance') echo '--on --off --dry-run --tries --wait --priority --max-pause --rate-limit --give-up ' ;;
    'network switch add') echo '--uplink --uplink-on --uplink-policy --mtu --host --distributed --bridge ' ;;
    'network switch set') echo '--uplink --uplink-on --uplink-policy --mtu --host ' ;;
    'network switch upgrade') echo '--host --to-version ' ;;
    'network port-group add') echo '--switch --vlan --switch-on --allow-standard ' ;;
    'affinity add') echo '--type --vm --host --should ' ;;
    'pool create') echo '--cpus --memory --vms --reserve-memory ' ;;
    'pool set') echo '--cpus --memory --vms --reserve-memory --lift ' ;;
    'cluster cpu') echo '--set --plan ' ;;
    'login') echo '--password-file ' ;;
    'user create') echo '--full-name --role --pool --folder --label --host-label ' ;;
    'user grant') echo '--pool --folder --label --host-label ' ;;
    'user password') echo '--password-file --current-file --revoke-tokens ' ;;
    'role create') echo '--permission --description ' ;;
    'role set') echo '--permission --description ' ;;
    'token create') echo '--role --pool --folder --label --host-label --expires ' ;;
    'audit list') echo '--who --object --action --result --since --until --limit ' ;;
    'audit export') echo '--who --object --action --result --since --until ' ;;
    'api') echo '--data --key ' ;;
    'events') echo '--kinds --since ' ;;
    esac
    echo '--server --token --ca --output --no-wait --timeout --why --quiet --help --version'
}

_drover_operand() {
    case "$1 $2" in
    'host show 0') echo 'names hosts' ;;
    'host enrol-token 0') echo 'names hosts' ;;
    'host confirm-down 0') echo 'names hosts' ;;
    'host label 0') echo 'names hosts' ;;
    'host maintenance 0') echo 'names hosts' ;;
    'host remove 0') echo 'names hosts' ;;
    'vm show 0') echo 'names vms' ;;
    'vm start 0') echo 'names vms' ;;
    'vm stop 0') echo 'names vms' ;;
    'vm pause 0') echo 'names vms' ;;
    'vm resume 0') echo 'names vms' ;;
    'vm suspend 0') echo 'names vms' ;;
    'vm delete 0') echo 'names vms' ;;
    'vm console 0') echo 'names vms' ;;
    'vm advise 0') echo 'names vms' ;;
    'vm forecast 0') echo 'names vms' ;;
    'vm migrate 0') echo 'names vms' ;;
    'vm disk resize 0') echo 'names vms' ;;
    'vm snapshot create 0') echo 'names vms' ;;
    'vm snapshot list 0') echo 'names vms' ;;
    'vm snapshot show 0') echo 'names vms' ;;
    'vm snapshot revert 0') echo 'names vms' ;;
    'vm snapshot delete 0') echo 'names vms' ;;
    'vm export 0') echo 'names vms' ;;
    'vm import-disk 0') echo 'names vms' ;;
    'vm export-disk 0') echo 'names vms' ;;
    'task show 0') echo 'names tasks' ;;
    'task watch 0') echo 'names tasks' ;;
    'task cancel 0') echo 'names tasks' ;;
    'schedule show 0') echo 'names schedules' ;;
    'schedule next 0') echo 'names schedules' ;;
    'schedule run 0') echo 'names schedules' ;;
    'schedule pause 0') echo 'names schedules' ;;
    'schedule resume 0') echo 'names schedules' ;;
    'schedule delete 0') echo 'names schedules' ;;
    'datastore show 0') echo 'names datastores' ;;
    'datastore set 0') echo 'names datastores' ;;
    'datastore maintenance 0') echo 'names datastores' ;;
    'datastore remove 0') echo 'names datastores' ;;
    'network switch show 0') echo 'names switches' ;;
    'network switch set 0') echo 'names switches' ;;
    'network switch upgrade 0') echo 'names switches' ;;
    'network switch remove 0') echo 'names switches' ;;
    'network port-group remove 0') echo 'names port-groups' ;;
    'affinity show 0') echo 'names affinity-rules' ;;
    'affinity remove 0') echo 'names affinity-rules' ;;
    'pool show 0') echo 'names pools' ;;
    'pool set 0') echo 'names pools' ;;
    'pool delete 0') echo 'names pools' ;;
    'user show 0') echo 'names users' ;;
    'user grant 0') echo 'names users' ;;
    'user grant 1') echo 'names roles' ;;
    'user revoke 0') echo 'names users' ;;
    'user revoke 1') echo 'names roles' ;;
    'user disable 0') echo 'names users' ;;
    'user enable 0') echo 'names users' ;;
    'user password 0') echo 'names users' ;;
    'user delete 0') echo 'names users' ;;
    'role show 0') echo 'names roles' ;;
    'role set 0') echo 'names roles' ;;
    'role delete 0') echo 'names roles' ;;
    'token revoke 0') echo 'names tokens' ;;
    'completion 0') echo 'bash zsh fish' ;;
    esac
}

_drover_value() {
    case "$1 $2" in
    'host maintenance --priority') echo 'low normal high critical' ;;
    'vm list --host') echo 'names hosts' ;;
    'vm list --power') echo 'stopped starting running paused suspending suspended incoming outgoing-done crashed unknown' ;;
    'vm create --firmware') echo 'bios uefi' ;;
    'vm create --accelerator') echo 'auto kvm tcg' ;;
    'vm create --datastore') echo 'names datastores' ;;
    'vm create --host') echo 'names hosts' ;;
    'vm start --host') echo 'names hosts' ;;
    'vm resume --host') echo 'names hosts' ;;
    'vm forecast --to') echo 'names hosts' ;;
    'vm migrate --to') echo 'names hosts' ;;
    'vm migrate --to-datastore') echo 'names datastores' ;;
    'vm migrate --format') echo 'raw qcow2' ;;
    'vm migrate --priority') echo 'low normal high critical' ;;
    'vm migrate --codec') echo 'auto none lz4 zstd' ;;
    'vm import --to-datastore') echo 'names datastores' ;;
    'vm import --to-format') echo 'raw qcow2' ;;
    'vm import --bus') echo 'virtio scsi sata ide' ;;
    'vm import --host') echo 'names hosts' ;;
    'vm import-disk --format') echo 'raw qcow2 vmdk vhdx vdi vhd' ;;
    'vm import-disk --to-datastore') echo 'names datastores' ;;
    'vm import-disk --to-format') echo 'raw qcow2' ;;
    'vm import-disk --bus') echo 'virtio scsi sata ide' ;;
    'schedule create --missed') echo 'skip run-once' ;;
    'schedule create --vm') echo 'names vms' ;;
    'schedule create --to') echo 'names hosts' ;;
    'schedule create --maintenance-on') echo 'names hosts' ;;
    'schedule create --maintenance-off') echo 'names hosts' ;;
    'schedule create --priority') echo 'low normal high critical' ;;
    'datastore add --host') echo 'names hosts' ;;
    'datastore maintenance --priority') echo 'low normal high critical' ;;
    'network switch add --uplink-policy') echo 'active-backup balance-slb lacp' ;;
    'network switch add --host') echo 'names hosts' ;;
    'network switch set --uplink-policy') echo 'active-backup balance-slb lacp' ;;
    'network switch set --host') echo 'names hosts' ;;
    'network switch upgrade --host') echo 'names hosts' ;;
    'network port-group add --switch') echo 'names switches' ;;
    'affinity add --type') echo 'keep-together keep-apart run-on keep-off' ;;
    'affinity add --vm') echo 'names vms' ;;
    'affinity add --host') echo 'names hosts' ;;
    'pool set --lift') echo 'cpus memory vms reserve-memory' ;;
    'login --password-file') echo 'file' ;;
    'user create --role') echo 'names roles' ;;
    'user password --password-file') echo 'file' ;;
    'user password --current-file') echo 'file' ;;
    'token create --role') echo 'names roles' ;;
    'api --data' | 'api -d') echo 'file' ;;
    *) case "$2" in
    '--token' | '-t') echo 'file' ;;
    '--ca') echo 'file' ;;
    '--output' | '-o') echo 'table json yaml' ;;
    esac ;;
    esac
}

_drover_valued=' -s --server -t --token --ca -o --output --timeout --why --name --migration-address --label --set --remove --policy --tries --priority --max-pause --give-up --host --power --cpus --memory --disk --net --kernel --initrd --append --cdrom --firmware --machine --cpu-model --accelerator --datastore --label --host --host --patience --host --patience --patience --tail --limit --to --max-pause --rate-limit --to --to-datastore --format --disk --max-pause --converge --priority --accept --codec --channels --rate-limit --min-bandwidth --give-up --description --name --net-map --to-datastore --to-format --bus --host --give-up --give-up --format --sha256 --to-datastore --to-format --name --bus --give-up --give-up --object --action --limit --calendar --at --time-zone --window --missed --vm --label --to --maintenance-on --maintenance-off --policy --tries --priority --max-pause --give-up --count --host --path-on --overcommit --overcommit --tries --wait --priority --max-pause --rate-limit --give-up --uplink --uplink-on --uplink-policy --mtu --host --bridge --uplink --uplink-on --uplink-policy --mtu --host --host --to-version --switch --vlan --switch-on --type --vm --host --cpus --memory --vms --reserve-memory --cpus --memory --vms --reserve-memory --lift --set --plan --password-file --full-name --role --pool --folder --label --host-label --pool --folder --label --host-label --password-file --current-file --permission --description --permission --description --role --pool --folder --label --host-label --expires --who --object --action --result --since --until --limit --who --object --action --result --since --until --data --key --kinds --since '

_drover_answer() {
    local previous=$1 current=$2
    shift 2
    local path='' n=0 skip='' word next answer
    for word in "$@"; do
        if [ -n "$skip" ]; then skip=''; continue; fi
        case "$word" in
        -*=*) ;;
        -*) case "$_drover_valued" in *" $word "*) skip=1 ;; esac ;;
        *)
            next=$(_drover_words "$path")
            case " $next " in
            *" $word "*) path="${path:+$path }$word" ;;
            *) n=$((n + 1)) ;;
            esac ;;
        esac
    done
    if [ -n "$skip" ]; then
        answer=$(_drover_value "$path" "$previous")
    else
        case "$current" in
        -*) answer=$(_drover_options "$path") ;;
        *)
            answer=$(_drover_words "$path")
            [ -n "$answer" ] || answer=$(_drover_operand "$path" "$n") ;;
        esac
    fi
    case "$answer" in
    'names '*) answer=$(drover names "${answer#names }" 2>/dev/null) ;;
    esac
    echo "$answer"
}

_drover() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} answer
    answer=$(_drover_answer "$previous" "$current" "${COMP_WORDS[@]:1:COMP_CWORD-1}")
    if [ "$answer" = file ]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    else
        mapfile -t COMPREPLY < <(compgen -W "$answer" -- "$current")
    fi
}

complete -F _drover drover
