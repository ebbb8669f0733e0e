#!/bin/bash
# Run once, when the database is set up: the service's own role, which is no superuser. The password is
# not given as an argument, which would be in the list of processes.
psql -v ON_ERROR_STOP=1 --quiet --username "${POSTGRES_USER:-postgres}" --dbname postgres <<END
CREATE ROLE service LOGIN PASSWORD '$(cat /run/secrets/database_password)';
CREATE DATABASE service OWNER service;
END
