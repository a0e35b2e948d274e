-- Finds the final job whose pages a document would be given. ARGV: the document's digest.
-- Returns {id, blob, how the workers read}, or {} if it has to be read.
local reader = sole_reader(now_ms())
local id = reader and redis.call('GET', known_key(ARGV[1], reader))
if not id or not is_known(id, ARGV[1]) then return {} end
return { id, redis.call('HGET', job_key(id), 'blob') }
