"""The bootstrap of a TierKV platform from one inventory file.

Reading order: `inventory` (the file, checked), `layout` (where everything is on a host),
`processes` (what runs on which host), `rendering` (configuration files and units), `reach` (how a
host's commands are run), `host` (what is done on one host, by the scripts in `scripts`),
`installing`, `founding`, `replication` (what the data clusters report), `running` (start, stop and
restart), `reporting`, and `command_line`.
"""
