-- One value per name: id, epoch, rv_block.
CREATE TABLE meta (
  name  TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Kinds of which a sync with the cloud was completed at least once.
CREATE TABLE kinds (
  kind TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- Objects as served (body), as the cloud sent them (base, null where it is the body) and what the edge wrote
-- (overlay). origin: 0 cloud, 1 edge. key_id: 0 plain, else the key that body, base and overlay are sealed with.
-- sum: checksum of the row, see sum.go.
CREATE TABLE objects (
  kind      TEXT NOT NULL,
  namespace TEXT NOT NULL,
  name      TEXT NOT NULL,
  uid       TEXT NOT NULL,
  rv        INTEGER NOT NULL,
  local_rv  INTEGER NOT NULL,
  origin    INTEGER NOT NULL,
  tombstone INTEGER NOT NULL,
  held      INTEGER NOT NULL,
  key_id    INTEGER NOT NULL,
  sum       INTEGER NOT NULL,
  body      BLOB NOT NULL,
  base      BLOB,
  overlay   BLOB,
  PRIMARY KEY (kind, namespace, name)
) STRICT;

-- Writes and messages that wait for the cloud's final answer. An id is never used twice.
-- class: 0 state, 1 events, 2 telemetry. policy, where the class is full: 0 drop the oldest, 1 refuse the new one.
-- created, expires: milliseconds since 1970, expires 0 for never. size: what counts towards the class's quota.
CREATE TABLE outbox (
  id        INTEGER PRIMARY KEY AUTOINCREMENT,
  kind      TEXT NOT NULL,
  namespace TEXT NOT NULL,
  name      TEXT NOT NULL,
  uid       TEXT NOT NULL,
  op        INTEGER NOT NULL,
  class     INTEGER NOT NULL,
  priority  INTEGER NOT NULL,
  policy    INTEGER NOT NULL,
  created   INTEGER NOT NULL,
  expires   INTEGER NOT NULL,
  size      INTEGER NOT NULL,
  key_id    INTEGER NOT NULL,
  sum       INTEGER NOT NULL,
  body      BLOB
) STRICT;

-- Of state, one write per object incarnation and operation waits: the newest.
CREATE UNIQUE INDEX outbox_state ON outbox (kind, namespace, name, op, uid) WHERE class = 0;

-- Messages that went undelivered, by class and reason.
CREATE TABLE losses (
  class  INTEGER NOT NULL,
  reason TEXT NOT NULL,
  count  INTEGER NOT NULL,
  PRIMARY KEY (class, reason)
) STRICT, WITHOUT ROWID;

-- Answers to TokenRequests. expires: milliseconds since 1970.
CREATE TABLE tokens (
  key     TEXT PRIMARY KEY,
  pod_uid TEXT NOT NULL,
  expires INTEGER NOT NULL,
  key_id  INTEGER NOT NULL,
  sum     INTEGER NOT NULL,
  body    BLOB NOT NULL
) STRICT;
CREATE INDEX tokens_pod ON tokens (pod_uid);
