-- An operator's change of a counter. KEYS: counter. ARGV: `grant` or `reset`, amount, terms.
--   grant: adds to the top-up of the running window (less than nothing takes back, down to none); of a bucket: until it
--     is full again
--   reset: what was used counts no longer; what calls in flight hold stays
-- Answer: {state, now, seven numbers}.
local b = open(KEYS[1], ARGV[3])
if b.kind == 'c' then roll(b) end
if b.clock then return {4, now} end
if bad then return redis.error_reply(bad) end
if ARGV[1] == 'grant' then
  if b.kind == 'k' then return redis.error_reply('XQARGS calls in flight have no top-up: ' .. KEYS[1]) end
  b.g = least(MOST, most(0, b.g + tonumber(ARGV[2])))
else
  b.u = b.u and 0
  b.o = b.o and least(b.o, b.r)
end
b.told = true
if b.kind == 'c' then
  b.a, b.l = 0, 0
  alert(b) -- what stands above its threshold still has been told
  b.level = 0
else
  b.w = 0
end
save(b)
local answer = {0, now}
tell(answer, 1, b, 0)
return answer
