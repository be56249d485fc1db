# place.sh: folders, files and links, a line each on standard input:
#   folder MODE OWNER PATH
#   file MODE OWNER PATH CONTENT(base64)
#   link TARGET - PATH
# Prints `changed: PATH` for each that was not yet so.
owner_of() { stat --format %U "$1"; }
mode_of() { stat --format %a "$1"; }

while read -r kind mode owner path content; do
    case $kind in
    folder)
        if [ -d "$path" ] && [ "$(owner_of "$path") $(mode_of "$path")" = "$owner $mode" ]; then
            continue
        fi
        # Folders above it belong to root and are open.
        (umask 022 && mkdir --parents "$path")
        chown "$owner:$(id -gn "$owner")" "$path"
        chmod "$mode" "$path"
        ;;
    file)
        new=$(mktemp "$path.XXXXXX")
        trap 'rm -f "$new"' EXIT
        base64 --decode <<<"$content" >"$new"
        if cmp --silent "$new" "$path" &&
            [ "$(owner_of "$path") $(mode_of "$path")" = "$owner $mode" ]; then
            rm -f "$new"
            continue
        fi
        chown "$owner:$(id -gn "$owner")" "$new"
        chmod "$mode" "$new"
        # A crash of the machine leaves the old file or the new one.
        sync "$new"
        mv --force "$new" "$path"
        ;;
    link)
        if [ "$(readlink "$path")" = "$mode" ]; then
            continue
        fi
        ln --symbolic --no-dereference --force "$mode" "$path"
        ;;
    *) fail "place.sh does not know $kind" ;;
    esac
    echo "changed: $path"
done
