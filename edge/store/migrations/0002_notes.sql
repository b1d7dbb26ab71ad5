-- What parts of edgecore keep for themselves: twins of devices, mappers, the broker's sessions. bucket: whose it is.
-- key_id and sum as in the other tables.
CREATE TABLE notes (
  bucket TEXT NOT NULL,
  key    TEXT NOT NULL,
  key_id INTEGER NOT NULL,
  sum    INTEGER NOT NULL,
  body   BLOB NOT NULL,
  PRIMARY KEY (bucket, key)
) STRICT;
