-- Reads a job with its outcomes, if it has ended and they are few. ARGV: id, most outcomes.
-- Returns {`status_of` it, {page, outcome...}}, or the first alone.
local most = whole(2, 0, 1000)
local status = status_of(ARGV[1])
local state = redis.call('HGET', job_key(ARGV[1]), 'state')
if not state or not FINAL[state] or redis.call('HLEN', pages_key(ARGV[1])) > most then return { status } end
return { status, redis.call('HGETALL', pages_key(ARGV[1])) }
