-- The call is over: what was held goes, what was used stays. A repeated one changes nothing.
-- KEYS: index of leases, record, counters as reserved, counters that nobody reserved on.
-- ARGV: id, number of counters as reserved, time a record stays (milliseconds), then amount and terms for each counter.
-- Answer: {state, now, seven numbers for each counter}; {state, now} where it is over already.
local known, lines = recall(KEYS[2])
if bad then return redis.error_reply(bad) end
if known == 's' then return {10, now} end
local reserved = tonumber(ARGV[2])
if known and #lines ~= reserved then
  return redis.error_reply('XQARGS other counters than the record\'s: ' .. KEYS[2])
end
local books = {}
for i = 1, #KEYS - 2 do
  local key, line = KEYS[i + 2], known and i <= reserved and lines[i]
  local b = open(key, ARGV[2 * i + 3])
  b.real = tonumber(ARGV[2 * i + 2])
  if line then
    if line.key ~= key then return redis.error_reply('XQARGS other counters than the record\'s: ' .. key) end
    b.held = line.held
    if b.kind == 'c' then
      b.books = turn(b, line.from)
      if not b.books then b.flag = 3 end
    end
  elseif b.kind == 'c' then
    if b.real > 0 then roll(b) end
    if b.clock then return {4, now} end
  end
  b.idle = not line and (b.real == 0 or b.kind == 'k') -- nothing to write
  books[i] = b
end
if bad then return redis.error_reply(bad) end
call('ZREM', KEYS[1], ARGV[1])
call('SET', KEYS[2], 's1', 'PX', ARGV[3])
local answer = {not known and 9 or known == 'e' and 8 or 7, now}
for i = 1, #books do
  local b = books[i]
  local live, late = known == 'r' and b.held or 0, known == 'e' and b.held or 0
  if b.kind == 'k' then
    b.r = most(0, b.r - live)
  elseif b.kind == 'b' then
    b.r = most(0, b.r - live)
    b.o = least(MOST, most(0, b.o + b.real - live - late))
  elseif b.books == 'p' then
    b.pr, b.pu = most(0, b.pr - live), least(MOST, most(0, b.pu - late) + b.real)
  elseif b.books == 's' then
    b.r, b.u = most(0, b.r - live), least(MOST, most(0, b.u - late) + b.real)
    alert(b)
  end
  if not b.idle and b.flag ~= 3 then save(b) end
  tell(answer, i, b, b.held)
end
return answer
