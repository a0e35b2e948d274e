#!lua flags=allow-oom
-- Ends a job that is not final: cancelled, expired or failed as a whole. With a fence, only for the holder of "prepare".
-- ARGV: id, state, error (JSON), TTL of a final job (s), fence of "prepare" or '', tenant whose job it must be, after
--       '=', or ''
-- Returns 'gone', 'fenced', 'final' (it was already) or 'ended'.
local id = ARGV[1]
if not FINAL[ARGV[2]] then error('a job does not end so') end
whole(4, 0)
if redis.call('EXISTS', job_key(id)) == 0 then return 'gone' end
if ARGV[6] ~= '' and ARGV[6] ~= '=' .. tenant_of(id) then return 'gone' end
if ARGV[5] ~= '' and not holds(id, 'prepare', ARGV[5]) then return 'fenced' end
return finalise(id, ARGV[2], ARGV[3], tonumber(ARGV[4]), now_ms()) and 'ended' or 'final'
