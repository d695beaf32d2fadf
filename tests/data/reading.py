"""How a test reads a source: whole, as it is prepared."""

import pickle

from launcher.data import BadRow


def read(module, config, *columns, key="data.train"):
    """All rows of a source, part after part, bad ones among them. Parts go through pickle, as to another process."""
    parts = pickle.loads(pickle.dumps(list(module.Source(config).parts(key))))
    return [row for part in parts for row in module.Source(config).rows(columns or ("text",), key, part)]


def texts(rows):
    return [row if isinstance(row, BadRow) else row["text"] for row in rows]


def told(rows):
    """The messages of the bad ones among rows."""
    return [str(row) for row in rows if isinstance(row, BadRow)]
