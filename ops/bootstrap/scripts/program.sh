# program.sh PATH SHA256 [receive]: prints `missing` unless the program is there with this sum;
# with `receive`, takes it from standard input.
path=$1 sum=$2 mode=${3:-look}

has() { [ -x "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$sum" ]; }

if has "$path"; then
    exit
fi
if [ "$mode" = look ]; then
    echo missing
    exit
fi
(umask 022 && mkdir --parents "${path%/*}")
new=$(mktemp "$path.XXXXXX")
trap 'rm -f "$new"' EXIT
cat >"$new"
chmod 755 "$new"
has "$new" || fail "$path did not arrive whole: is the disk full?"
sync "$new"
mv --force "$new" "$path"
echo "changed: $path"
