-- Secrets and tokens are sealed from here on (key_id, see seal.go). The tables stay as they are: this number keeps
-- versions that cannot open sealed rows from taking them for damage. Name sealed in meta says that no file holds what
-- was written before.
DELETE FROM meta WHERE name = 'sealed';
