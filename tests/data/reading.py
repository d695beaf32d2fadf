"""Read the rows of a source as a preparation does."""

import pickle

from launcher.data import BadRow


def read(module, config, *columns, key="data.train"):
    """Return all rows of a source, part by part, with the bad ones. Parts are pickled, as for another process."""
    parts = pickle.loads(pickle.dumps(list(module.Source(config).parts(key))))
    return [row for part in parts for row in module.Source(config).rows(columns or ("text",), key, part)]


def texts(rows):
    return [row if isinstance(row, BadRow) else row["text"] for row in rows]


def told(rows):
    """Return the messages of the bad rows."""
    return [str(row) for row in rows if isinstance(row, BadRow)]
