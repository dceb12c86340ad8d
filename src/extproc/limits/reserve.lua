-- Holds the amounts on all counters, or on none.
-- KEYS: index of leases, record, counters. ARGV: id, lease (milliseconds), then amount and terms for each counter.
-- Answer: {state, now, then seven numbers for each counter}; {state, now} where nothing was looked at.
local known, lines = recall(KEYS[2])
if bad then return redis.error_reply(bad) end
if known and known ~= 'r' then return {3, now} end
local books, refused = {}, false
for i = 1, #KEYS - 2 do
  local b = open(KEYS[i + 2], ARGV[2 * i + 2])
  local amount = tonumber(ARGV[2 * i + 1])
  b.held = amount
  if b.kind == 'c' then roll(b) end
  if b.clock and not known then return {4, now} end
  local taken = out(b)
  if amount > 0 and taken + amount > room(b) then -- a call that uses none of it passes whatever others did
    b.flag = b.hard and 1 or 2
    refused = refused or b.hard
    if not b.hard then b.held = least(amount, most(0, MOST - taken)) end -- refuses nothing: not what cannot be counted
  end
  b.from = b.s or 0
  books[i] = b
end
if bad then return redis.error_reply(bad) end
local answer = {known and 2 or refused and 1 or 0, now}
if known then
  if #lines ~= #books then return redis.error_reply('XQARGS other counters than the record\'s: ' .. KEYS[2]) end
  for i = 1, #books do
    books[i].flag = 0
    tell(answer, i, books[i], lines[i].held)
  end
  return answer
end
if refused then
  -- a limit that turns calls away has been reached: told once, unless the call could never have passed
  for i = 1, #books do
    local b = books[i]
    if b.flag == 1 and b.held <= room(b) and string.sub(b.alerts, -3) == '100' then
      if b.kind == 'c' and (b.a < 100 or room(b) > b.l) then
        b.a, b.l, b.level, b.told = 100, room(b), 100, true
      elseif b.kind ~= 'c' and now >= b.w then
        b.w, b.level = now + HOUR, 100
      end
      if b.level > 0 then save(b) end
    end
    tell(answer, i, b, 0)
  end
  return answer
end
call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
call('SET', KEYS[2], record('r', books))
for i = 1, #books do
  local b = books[i]
  b.r = b.r + b.held
  if b.kind == 'b' then b.o = b.o + b.held end
  save(b)
  tell(answer, i, b, b.held)
end
return answer
