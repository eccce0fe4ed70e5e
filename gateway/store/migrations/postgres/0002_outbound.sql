-- Outbound calls that were asked for. One row per idempotency key: a repeated request finds its call.
create table outbound (
    seq bigint generated always as identity primary key,
    id text not null unique,
    idempotency_key text unique,  -- null: none was given
    digest text not null,  -- of what was asked: the same key with something else is refused
    number_hash text not null,  -- of the address to call, keyed as in `calls`
    body text not null,  -- what was asked, as JSON
    status text not null,  -- waiting, claimed, placing, then the carrier's
    call_sid text not null default '',
    answered_by text not null default '',
    error text not null default '',
    created_ms bigint not null,
    claimed_by text not null default '',  -- the process that places it
    claimed_until_ms bigint not null default 0,
    placing_ms bigint not null default 0,  -- when the carrier was asked
    attempts integer not null default 0
);
create index outbound_waiting on outbound (seq) where status in ('waiting', 'claimed', 'placing');
create index outbound_number on outbound (number_hash);
create index outbound_call on outbound (call_sid) where call_sid <> '';

-- When the next call may be placed: one row for all processes, which keeps the account's rate.
create table outbound_pace (
    one integer primary key check (one = 1),
    next_ms bigint not null
);
insert into outbound_pace (one, next_ms) values (1, 0);
