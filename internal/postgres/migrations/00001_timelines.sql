-- The timelines of one region (docs/architecture.md, "Apply"). Every row but local offsets and "shown" is a function of
-- the set of records applied. Text is compared by bytes (COLLATE "C"), as places and cursors are in every region; what
-- clients write is bytea, so that no text can stop the world.

-- +goose Up

-- How far the view is in each partition. next is an offset of the ORIGIN's log and is compared and set by every batch:
-- the fence. local is where to seek to in this region's Kafka.
CREATE TABLE positions (
    topic      text COLLATE "C" NOT NULL,
    part       integer          NOT NULL,
    next       bigint           NOT NULL,
    local      bigint           NOT NULL,
    generation bigint           NOT NULL, -- link generation
    watermark  bigint           NOT NULL, -- stamp of the origin's last heartbeat
    log_id     uuid             NOT NULL, -- of the log's name; zero until record 0
    PRIMARY KEY (topic, part)
) WITH (fillfactor = 50);

-- How far each partition was delivered, saved once a second; a new owner delivers again from here.
CREATE TABLE sent (
    topic text COLLATE "C" NOT NULL,
    part  integer          NOT NULL,
    next  bigint           NOT NULL,
    local bigint           NOT NULL,
    PRIMARY KEY (topic, part)
) WITH (fillfactor = 50);

-- The last record of each origin in a conversation: its seq is where numbering goes on.
CREATE TABLE heads (
    conversation text COLLATE "C" NOT NULL,
    origin       text COLLATE "C" NOT NULL,
    seq          bigint           NOT NULL,
    log_offset   bigint           NOT NULL, -- of that record in the origin's log
    topic        text COLLATE "C" NOT NULL,
    part         integer          NOT NULL,
    PRIMARY KEY (conversation, origin)
) WITH (fillfactor = 70);

-- Per id and origin the lowest place and the first seq: a record shows if its place is the lowest of its id in all
-- origins; it is read if its first seq in any origin is.
CREATE TABLE ids (
    conversation text COLLATE "C" NOT NULL,
    sender       text COLLATE "C" NOT NULL,
    client_id    uuid             NOT NULL,
    origin       text COLLATE "C" NOT NULL,
    stamp        bigint           NOT NULL,
    seq          bigint           NOT NULL,
    first_seq    bigint           NOT NULL,
    PRIMARY KEY (conversation, client_id, sender, origin)
);

-- Every record that has a seq, repeats and unknown kinds included.
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
    PRIMARY KEY (conversation, origin, seq)
);

-- For a list's last message.
CREATE INDEX messages_by_place ON messages (conversation, stamp) WHERE shown AND kind = 'message';

-- Direct conversations, fanned out on write to both members. The members are in the id, so nothing races.
CREATE TABLE inbox (
    uid          text COLLATE "C" NOT NULL,
    conversation text COLLATE "C" NOT NULL,
    origin       text COLLATE "C" NOT NULL,
    log_offset   bigint           NOT NULL,
    topic        text COLLATE "C" NOT NULL,
    part         integer          NOT NULL,
    PRIMARY KEY (uid, conversation, origin)
) WITH (fillfactor = 70);

-- Every record's word on every user's membership of a group.
CREATE TABLE members (
    conversation text COLLATE "C" NOT NULL,
    uid          text COLLATE "C" NOT NULL,
    origin       text COLLATE "C" NOT NULL,
    seq          bigint           NOT NULL,
    stamp        bigint           NOT NULL,
    sender       text COLLATE "C" NOT NULL,
    client_id    uuid             NOT NULL,
    log_offset   bigint           NOT NULL,
    added        boolean          NOT NULL, -- false: removed
    PRIMARY KEY (conversation, uid, origin, seq)
);

CREATE INDEX members_by_uid ON members (uid, conversation);

-- Every record's word on a group's title.
CREATE TABLE titles (
    conversation text COLLATE "C" NOT NULL,
    origin       text COLLATE "C" NOT NULL,
    seq          bigint           NOT NULL,
    stamp        bigint           NOT NULL,
    sender       text COLLATE "C" NOT NULL,
    client_id    uuid             NOT NULL,
    created      boolean          NOT NULL, -- the record that made the group
    title        bytea            NOT NULL,
    PRIMARY KEY (conversation, origin, seq)
);

-- Delivered and read cursors, merged by maximum.
CREATE TABLE cursors (
    conversation text COLLATE "C" NOT NULL,
    uid          text COLLATE "C" NOT NULL,
    origin       text COLLATE "C" NOT NULL,
    delivered    bigint           NOT NULL,
    read         bigint           NOT NULL,
    PRIMARY KEY (conversation, uid, origin)
) WITH (fillfactor = 70);

-- +goose Down

DROP TABLE cursors, titles, members, inbox, messages, ids, heads, sent, positions;
