#!/bin/sh
# Puts what `fedha deploy pack` made in its place, in the folder where this file lies. It may be repeated: what belongs to
# this machine stays as it is (.env, configs/, contracts/, data/, runs/, accepted.txt, compose.override.yml), the rest is
# brought up to date.
set -eu
umask 077
cd "$(dirname "$0")"
if [ ! -d .next ]; then
    echo "nothing to settle: unpack what \`fedha deploy pack\` made here first" >&2
    exit 1
fi
uid=$(id -u) gid=$(id -g)
if [ "$uid" = 0 ]; then uid=@USER@ gid=@USER@; fi # no container runs as root

if [ -d contracts ]; then rm -rf .next/once/contracts; fi # only a site that joins agrees to what comes; later it is asked
for folder in @FOLDERS@; do mkdir -p "$folder"; done
(cd .next/once && find . -type f) | while IFS= read -r file; do
    mkdir -p "$(dirname "$file")"
    [ -e "$file" ] || mv ".next/once/$file" "$file"
done
if [ ! -e .env ]; then
    sed -e "s/^FEDHA_UID=.*/FEDHA_UID=$uid/" -e "s/^FEDHA_GID=.*/FEDHA_GID=$gid/" .next/env > .env
    if [ "$(id -u)" != 0 ] && ! command -v docker > /dev/null && command -v podman > /dev/null; then
        echo "FEDHA_USERNS=keep-id" >> .env # podman without root: this user is the containers' user
    fi
fi
if [ -e compose.yml ] && ! cmp -s compose.yml .next/always/compose.yml; then
    mv compose.yml compose.yml.before
    echo "compose.yml is new; the one before is compose.yml.before (your own changes belong in compose.override.yml)"
fi
if [ -d .next/always/clients ]; then rm -f clients/*.pub; fi # keys of former clients among them
(cd .next/always && find . -type f) | while IFS= read -r file; do
    mkdir -p "$(dirname "$file")"
    mv -f ".next/always/$file" "$file"
done
rm -rf .next

uid=$(sed -n 's/^FEDHA_UID=//p' .env | tail -n 1) gid=$(sed -n 's/^FEDHA_GID=//p' .env | tail -n 1)
chmod go= . .env compose.yml
chmod -R go= secrets
if [ "$(id -u)" = 0 ]; then
    chown -R "$uid:$gid" .
elif [ "$(id -u)" != "$uid" ]; then
    echo "FEDHA_UID in $(pwd)/.env is $uid and these files are user $(id -u)'s: containers could not read them;" \
        "set it to $(id -u), and FEDHA_GID to $(id -g)" >&2
    exit 1
fi
if command -v selinuxenabled > /dev/null && selinuxenabled; then chcon -R -t container_file_t .; fi
echo "$(pwd) is up to date; start it with: docker compose up --detach --force-recreate (or podman-compose)"
