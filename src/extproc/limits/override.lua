-- A limit of its own for one value of a rule's scope, live. KEYS: overrides, their version.
-- ARGV: `<rule>|<value>`, limit or empty (takes it away). Answer: the version.
if ARGV[2] == '' then redis.call('HDEL', KEYS[1], ARGV[1]) else redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return redis.call('INCR', KEYS[2])
