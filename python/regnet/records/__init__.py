"""Configurations and results as JSON Lines: one object a line, `{"schema": 1, "config": {...}, "error": 38.2, ...}`.

    write_records(path, ({"config": config, "flops": cost.flops} for ...))   a whole file, atomically
    append_records(path, [{"config": config, "error": 38.2}])                more lines, from any number of processes
    read_records(path), read_configs(path)                                   back again

schema.py tells what a record is, configs.py how a configuration becomes JSON, files.py reads and writes, columns.py takes numbers
out of records.
"""

from regnet.records.columns import columns
from regnet.records.configs import config_from_json, config_to_json
from regnet.records.files import append_records, iter_records, read_configs, read_records, write_records
from regnet.records.schema import SCHEMA, RecordError

__all__ = [
    "SCHEMA", "RecordError", "append_records", "columns", "config_from_json", "config_to_json", "iter_records", "read_configs",
    "read_records", "write_records",
]  # fmt: skip
