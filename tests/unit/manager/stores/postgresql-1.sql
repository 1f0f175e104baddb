-- A store as drover-manager 0.1.0 wrote it with version 1 of the schema: a datastore, and a virtual machine that was removed.
SET ROLE drover;
CREATE SCHEMA IF NOT EXISTS drover;
CREATE TABLE drover.state (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), version integer NOT NULL, revision bigint NOT NULL DEFAULT 0, term bigint NOT NULL DEFAULT 0, beat bigint NOT NULL DEFAULT 0, holder text NOT NULL DEFAULT '', server text NOT NULL DEFAULT '') WITH (fillfactor = 10);
INSERT INTO drover.state (version) VALUES (0);
CREATE TABLE drover.object (kind text COLLATE "C" NOT NULL, uid text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL, revision bigint NOT NULL, doc text NOT NULL, PRIMARY KEY (kind, uid), UNIQUE (kind, name));
CREATE TABLE drover.change_log (seq bigint PRIMARY KEY, removed boolean NOT NULL, kind text NOT NULL, uid text NOT NULL, name text NOT NULL, doc text);
CREATE FUNCTION drover.commit_changes(my_term bigint, removes boolean[], kinds text[], uids text[], names text[], expects bigint[], docs text[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE s drover.state; old drover.object; at bigint;
BEGIN
  SELECT * INTO STRICT s FROM drover.state FOR UPDATE;
  IF my_term <> s.term THEN
    RAISE EXCEPTION USING ERRCODE = 'DR001', MESSAGE = s.term::text, DETAIL = s.server;
  END IF;
  at := s.revision;
  FOR i IN 1 .. cardinality(kinds) LOOP
    SELECT * INTO old FROM drover.object o WHERE o.kind = kinds[i] AND o.uid = uids[i];
    IF expects[i] <> coalesce(old.revision, 0) THEN
      RAISE EXCEPTION USING ERRCODE = 'DR002', MESSAGE = i::text, DETAIL = coalesce(old.revision, 0)::text;
    END IF;
    CONTINUE WHEN removes[i] AND old.revision IS NULL;
    IF NOT removes[i] AND EXISTS (SELECT FROM drover.object o WHERE o.kind = kinds[i] AND o.name = names[i] AND o.uid <> uids[i]) THEN
      RAISE EXCEPTION USING ERRCODE = 'DR003', MESSAGE = i::text;
    END IF;
    at := at + 1;
    INSERT INTO drover.change_log VALUES (at, removes[i], kinds[i], uids[i], CASE WHEN removes[i] THEN old.name ELSE names[i] END, docs[i]);
    IF removes[i] THEN
      DELETE FROM drover.object o WHERE o.kind = kinds[i] AND o.uid = uids[i];
    ELSE
      INSERT INTO drover.object VALUES (kinds[i], uids[i], names[i], at, docs[i]) ON CONFLICT (kind, uid) DO UPDATE SET name = excluded.name, revision = excluded.revision, doc = excluded.doc;
    END IF;
  END LOOP;
  IF at > s.revision THEN UPDATE drover.state SET revision = at; END IF;
  RETURN at;
END $$;
UPDATE drover.state SET version = 1, revision = 3, term = 1;
INSERT INTO drover.object VALUES ('datastore', 'd1', 'shared', 1, '{"kind":"datastore","name":"shared","uid":"d1","spec":{"path":"/srv/vms"}}'),
 ('vm', 'v2', 'web', 3, '{"kind":"vm","name":"web","uid":"v2","spec":{"labels":{"pool":"east"}}}');
INSERT INTO drover.change_log VALUES (1, false, 'datastore', 'd1', 'shared', '{"kind":"datastore","name":"shared","uid":"d1","spec":{"path":"/srv/vms"}}'),
 (2, true, 'vm', 'v1', 'old', NULL),
 (3, false, 'vm', 'v2', 'web', '{"kind":"vm","name":"web","uid":"v2","spec":{"labels":{"pool":"east"}}}');
