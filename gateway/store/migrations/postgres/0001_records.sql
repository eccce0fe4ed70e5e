-- One row per call with what is searched and listed; the whole record is in `records`.
create table calls (
    id bigint primary key,  -- grows with the start of the call: see columns.call_key
    call_sid text not null unique,
    epoch bigint not null,  -- of the owner that wrote it: a higher one replaces it
    agent text not null,
    model text not null,
    direction text not null,
    number_hash text not null,  -- of the other party, keyed; '' when withheld
    number_shown text not null,
    started_ms bigint not null,
    duration_ms bigint not null,
    end_reason text not null,
    end_side text not null,
    simulated integer not null,
    turns integer not null,
    barge_ins integer not null,
    tools integer not null,
    errors integer not null,
    turn_gap_ms double precision,  -- the slowest of the call
    barge_in_ms double precision,  -- likewise, onset to silence
    tokens bigint not null,
    cost_usd double precision,
    recording text not null,
    size_bytes bigint not null  -- of record and recording
);
create index calls_agent on calls (agent, id);
create index calls_number on calls (number_hash, id);
create index calls_end on calls (end_reason, id);
create index calls_turn_gap on calls (id, turn_gap_ms, agent) where turn_gap_ms >= 1000;
create index calls_barge_in on calls (id, barge_in_ms, agent) where barge_in_ms >= 300;

create table records (
    id bigint primary key,
    record bytea not null  -- JSON, zlib
);

create table call_tools (
    tool text not null,
    id bigint not null,
    primary key (tool, id)
);
create index call_tools_id on call_tools (id);

-- The words of caller and agent, folded (columns.words_of).
create table words (
    id bigint primary key,
    said tsvector not null
);
create index words_said on words using gin (said);

-- Samples of latency by hour, day and 30 days: counts per bin of metrics.quantiles, as JSON. Each node adds to rows of its own.
create table latency (
    width_s integer not null,
    start_s bigint not null,
    segment text not null,
    agent text not null,
    model text not null,
    node text not null,
    bins text not null,
    primary key (width_s, start_s, segment, agent, model, node)
);

-- Webhooks to deliver: written in the transaction of what they report.
create table outbox (
    seq bigint generated always as identity primary key,
    id text not null unique,
    subject text not null,  -- deliveries of one subject keep their order: the call, or the kind of an alert
    kind text not null,
    body bytea,  -- null once it is delivered or was removed
    created_ms bigint not null,
    due_ms bigint not null,
    attempts integer not null default 0,
    state text not null default 'waiting',  -- delivered, dead
    error text not null default ''
);
create index outbox_due on outbox (due_ms) where state = 'waiting';
create index outbox_subject on outbox (subject, seq);
create index outbox_state on outbox (state, seq);
