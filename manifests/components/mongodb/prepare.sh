#!/bin/sh
# Makes the two files as mongod wants them. A keyfile that the group may read, as Kubernetes makes it with fsGroup, is
# refused; and certificate and key must be in one file, where a TLS Secret has two: with a new line between them, which the
# certificate may lack.
set -eu
umask 077
cat /etc/mongodb-keyfile/keyfile >/run/mongodb/keyfile
{ cat /etc/mongodb-tls/tls.crt && echo && cat /etc/mongodb-tls/tls.key; } >/run/mongodb/server.pem
