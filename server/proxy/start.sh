#!/bin/sh
# Starts nginx with the name server of this container's network, which finds the SuperLink also after it was started again.
set -eu

folder=${FOLDER:-/tmp/nginx}
resolver=${RESOLVER:-$(sed -n 's/^nameserver[[:space:]]*//p' /etc/resolv.conf | head -n 1)}
case $resolver in *:*) resolver="[$resolver]" ;; esac

mkdir -p "$folder"
sed -e "s|@FOLDER@|$folder|" \
    -e "s|@LISTEN@|${LISTEN:-8443}|" \
    -e "s|@RESOLVER@|$resolver|" \
    -e "s|@SECRETS@|${SECRETS:-/run/secrets}|" \
    -e "s|@SUPERLINK@|${SUPERLINK:-superlink:8000}|" \
    "$(dirname "$0")/nginx.conf" > "$folder/nginx.conf"
exec nginx -e stderr -c "$folder/nginx.conf" -g 'daemon off;'
