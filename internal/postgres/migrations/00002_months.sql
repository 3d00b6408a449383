-- Messages by month, and one table less to write.
--
-- A message lives in the partition of the month in its client_id, a UUIDv7: a function of the record, so every region puts
-- it in the same place, and all records of one id are together. Finding an id's other records therefore looks into one
-- partition. What has no readable client_id, or one of a month for which there is no partition, lives in messages_rest.
-- That (conversation, origin, seq) stands once, whatever the month, is held by heads, where each batch must find the seq
-- before its first (docs/adr/008-messages-by-month.md).
--
-- An id's lowest place and first seq are found by the primary key; there is no table of ids any more.

-- +goose Up

-- Which of a region's databases this is. Partition p of every topic lives in database p mod count.
CREATE TABLE layout (
    one        boolean PRIMARY KEY CHECK (one),
    number     integer NOT NULL, -- from 0
    count      integer NOT NULL,
    partitions integer NOT NULL  -- of each topic
);

-- A database that is in use already is the only one of its region.
INSERT INTO layout (one, number, count, partitions) SELECT true, 0, 1, 0 WHERE EXISTS (SELECT FROM positions);

ALTER TABLE messages RENAME TO messages_before;
ALTER TABLE messages_before RENAME CONSTRAINT messages_pkey TO messages_before_pkey;
DROP INDEX messages_by_place;

CREATE TABLE messages (
    stamp        bigint           NOT NULL,
    seq          bigint           NOT NULL,
    log_offset   bigint           NOT NULL,
    version      bigint           NOT NULL,
    client_id    uuid             NOT NULL,
    opaque       boolean          NOT NULL, -- the value did not decode: body is the whole value
    shown        boolean          NOT NULL, -- the build that applied it can show it; derived anew after an upgrade
    conversation text COLLATE "C" NOT NULL,
    origin       text COLLATE "C" NOT NULL,
    kind         text COLLATE "C" NOT NULL,
    sender       text COLLATE "C" NOT NULL,
    trace        text COLLATE "C" NOT NULL,
    body         bytea            NOT NULL,
    PRIMARY KEY (client_id, conversation, stamp, origin, seq) -- the records of an id, the lowest place first
) PARTITION BY RANGE (client_id);

CREATE TABLE messages_rest PARTITION OF messages DEFAULT;

INSERT INTO messages (stamp, seq, log_offset, version, client_id, opaque, shown, conversation, origin, kind, sender, trace, body)
SELECT stamp, seq, log_offset, version, client_id, opaque, shown, conversation, origin, kind, sender, trace, body FROM messages_before;

DROP TABLE messages_before, ids;

-- For pulls.
CREATE INDEX messages_by_seq ON messages (conversation, origin, seq);

-- For a list's last message.
CREATE INDEX messages_by_place ON messages (conversation, stamp) WHERE shown AND kind = 'message';
