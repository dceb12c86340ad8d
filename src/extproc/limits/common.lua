-- What the scripts share; it stands before each of them.
--
-- A counter's terms come as text, `<kind><mode> <a> <b> <c> <d> <alerts>`, all numbers whole:
--   c  calendar window   a limit   b start   c end     d end of the window after   (milliseconds)
--   b  token bucket      a burst   b rate    c period  d 0          (`rate` flows back in `period` milliseconds)
--   k  calls in flight   a limit   b, c, d 0
-- mode: h refuses, s says so only; alerts: per cents, ascending, joined by commas, or `-`.
--
-- Fields of a counter's hash:
--   calendar: s, e start and end; u used; r reserved; g top-up; a highest alert told, for limit l; ps, pe, pu, pr, pg the window before
--   bucket:   o out; t drained up to (milliseconds); f what is left over of the division, in 1/period; r; g; w
--   in flight: r; w
--   w: until when a refusal is not told again
--
-- Each script reads and checks all it needs before it writes anything: an error changes nothing.
-- Numbers are doubles: whole ones are exact up to MOST.
local call, tonumber, floor = redis.call, tonumber, math.floor
local match, format = string.match, string.format
local MOST, HOUR, YEAR = 9007199254740991, 3600000, 31622400000
local clock = call('TIME')
local now = clock[1] * 1000 + floor(clock[2] / 1000)
local bad -- what is wrong with the store's values: the error to answer

local function least(a, b) return a < b and a or b end
local function most(a, b) return a > b and a or b end

-- Stored numbers; what none of us wrote is an error.
local function whole(key, v)
  local a, b, c, d = tonumber(v[1] or 0), tonumber(v[2] or 0), tonumber(v[3] or 0), tonumber(v[4] or 0)
  local e, f, g = tonumber(v[5] or 0), tonumber(v[6] or 0), tonumber(v[7] or 0)
  if a and b and c and d and e and f and g and a >= 0 and b >= 0 and c >= 0 and d >= 0 and e >= 0 and f >= 0 and g >= 0
    and a <= MOST and b <= MOST and c <= MOST and d <= MOST and e <= MOST and f <= MOST and g <= MOST
    and a % 1 + b % 1 + c % 1 + d % 1 + e % 1 + f % 1 + g % 1 == 0 then
    return a, b, c, d, e, f, g
  end
  bad = 'XQBAD not a count of ours: ' .. key
  return 0, 0, 0, 0, 0, 0, 0
end

-- The window that runs now; the one before it is kept, older ones are forgotten.
local function roll(b)
  if now < b.e and b.s < b.after then return end -- one that begins after all of ours: a wrong clock has opened it
  local s, e, after = b.start, b.stop, 0
  if now < s or now >= b.after then b.clock = true return end
  if now < e then after = b.after else s, e, after = e, b.after, 2 * b.after - e end
  if b.e > 0 then b.ps, b.pe, b.pu, b.pr, b.pg = b.s, b.e, b.u, b.r, b.g end
  b.s, b.e, b.u, b.r, b.g, b.a, b.l, b.rolled = s, e, 0, 0, 0, 0, 0, after
end

-- What has flowed back since. `rate` and the time are split so that no product goes above MOST for periods up to a
-- day; for longer ones `f` may be off by less than a thousandth of a unit.
local function drain(b)
  if b.o > 0 and b.rate > 0 then
    local gone, f = most(0, now - b.t), b.f < b.period and b.f or 0
    local times = floor(gone / b.period)
    local rest, per = gone - times * b.period, floor(b.rate / b.period)
    local part = rest * (b.rate - per * b.period) + f
    local units = floor(part / b.period)
    b.f = least(most(0, part - units * b.period), b.period - 1)
    b.o = b.o - (times * b.rate + rest * per + units)
    if b.o <= 0 then b.o, b.g = 0, 0 end -- full again: a top-up ends
  end
  if b.o == 0 then b.f = 0 end
  b.t = now
end

-- A counter as the store has it. Tables are made with all their fields at once: adding them later costs more.
local function open(key, terms)
  local kind, mode, x, y, z, d, alerts = match(terms, '^([cbk])([hs]) (%d+) (%d+) (%d+) (%d+) (%S+)$')
  if kind == 'c' then
    local s, e, u, r, g, a, l = whole(key, call('HMGET', key, 's', 'e', 'u', 'r', 'g', 'a', 'l'))
    return {key = key, kind = 'c', hard = mode == 'h', limit = tonumber(x), alerts = alerts, terms = terms,
      s = s, e = e, u = u, r = r, g = g, a = a, l = l, start = tonumber(y), stop = tonumber(z), after = tonumber(d),
      books = 's', held = 0, from = s, flag = 0, level = 0}
  elseif kind == 'b' then
    local o, t, f, r, g, w = whole(key, call('HMGET', key, 'o', 't', 'f', 'r', 'g', 'w'))
    local b = {key = key, kind = 'b', hard = mode == 'h', limit = tonumber(x), alerts = alerts, terms = terms,
      o = o, t = t, f = f, r = r, g = g, w = w, rate = tonumber(y), period = tonumber(z),
      held = 0, from = 0, flag = 0, level = 0}
    drain(b)
    return b
  elseif kind == 'k' then
    local r, w = whole(key, call('HMGET', key, 'r', 'w'))
    return {key = key, kind = 'k', hard = mode == 'h', limit = tonumber(x), alerts = alerts, terms = terms,
      r = r, w = w, g = 0, held = 0, from = 0, flag = 0, level = 0}
  end
  bad = 'XQARGS not terms: ' .. key
  return {key = key, kind = 'k', r = 0, g = 0, limit = 0, held = 0, from = 0, flag = 0}
end

-- Turns to the books of the window that began at `start`: 's' the latest, 'p' the one before, nil: they are gone.
local function turn(b, start)
  if b.s == start and b.e > 0 then return 's' end
  if not b.ps then b.ps, b.pe, b.pu, b.pr, b.pg = whole(b.key, call('HMGET', b.key, 'ps', 'pe', 'pu', 'pr', 'pg')) end
  return b.ps == start and start > 0 and 'p' or nil
end

-- Writes a counter. It stays an hour after the window that follows, after the bucket is full, after the last call.
local function save(b)
  local key = b.key
  if b.kind == 'c' then
    if b.rolled then
      call('HSET', key, 's', b.s, 'e', b.e, 'u', b.u, 'r', b.r, 'g', b.g, 'a', b.a, 'l', b.l)
      if b.ps then call('HSET', key, 'ps', b.ps, 'pe', b.pe, 'pu', b.pu, 'pr', b.pr, 'pg', b.pg) end
      call('PEXPIREAT', key, b.rolled + HOUR)
    elseif b.books == 'p' then
      call('HSET', key, 'pu', b.pu, 'pr', b.pr)
    elseif b.told then
      call('HSET', key, 'u', b.u, 'r', b.r, 'g', b.g, 'a', b.a, 'l', b.l)
    else
      call('HSET', key, 'u', b.u, 'r', b.r)
    end
  elseif b.kind == 'b' then
    local time = b.rate > 0 and floor(b.o / b.rate * b.period) or 0
    call('HSET', key, 'o', b.o, 't', b.t, 'f', b.f, 'r', b.r, 'g', b.g, 'w', b.w)
    call('PEXPIRE', key, least(time, YEAR) + b.period + HOUR)
  else
    call('HSET', key, 'r', b.r, 'w', b.w)
    if b.r > 0 then call('PERSIST', key) else call('PEXPIRE', key, HOUR) end
  end
end

-- What may be out, with the top-up.
local function room(b)
  return least(MOST, b.limit + (b.books == 'p' and b.pg or b.g))
end

-- What is out: used and reserved.
local function out(b)
  if b.kind == 'b' then return b.o end
  if b.kind == 'k' then return b.r end
  if b.books == 'p' then return b.pu + b.pr end
  return b.u + b.r
end

-- Alerts begin anew where the limit was raised since the last one. -> the limit
local function afresh(b)
  local limit = room(b)
  if b.a > 0 and limit > b.l then b.a = 0 end
  return limit
end

-- Notes the highest alert that `used` has newly reached in the window.
local function alert(b)
  if b.alerts == '-' or b.u == 0 or (b.a == 100 and room(b) <= b.l) then return end
  local limit, level = afresh(b), 0
  local hundredth = floor(limit / 100)
  local rest = limit - hundredth * 100
  for word in string.gmatch(b.alerts, '%d+') do
    local per = tonumber(word)
    if b.u >= hundredth * per + math.ceil(rest * per / 100) then level = per end
  end
  if level > b.a then b.a, b.l, b.level, b.told = level, limit, level, true end
end

-- Appends what is known of a counter to the answer: used, reserved, limit, end, flag, alert, held.
local function tell(answer, n, b, held)
  local kind, used, reserved, stop = b.kind, 0, b.r, 0
  if kind == 'b' then
    reserved = least(b.r, b.o)
    used = b.o - reserved
  elseif b.books == 'p' then
    used, reserved, stop = b.pu, b.pr, b.pe
  elseif kind == 'c' then
    used, stop = b.u, b.e
  end
  n = n * 7 - 5
  answer[n + 1], answer[n + 2], answer[n + 3], answer[n + 4] = used, reserved, room(b), stop
  answer[n + 5], answer[n + 6], answer[n + 7] = b.flag, b.level, held
end

-- A record: `<state>1`, then a line for each counter: key, amount, start of its window, terms.
local function record(state, books)
  local lines = {state .. '1'}
  for i = 1, #books do
    local b = books[i]
    lines[i + 1] = format('%s %.0f %.0f %s', b.key, b.held, b.from, b.terms)
  end
  return table.concat(lines, '\n')
end

-- Reads a record -> its state and its lines {key, held, from, terms}. State nil: there is none.
local function recall(key)
  local text = call('GET', key)
  if not text then return nil end
  local state = match(text, '^([rse])1')
  local lines = {}
  for name, held, from, terms in string.gmatch(text, '\n(%S+) (%d+) (%d+) ([^\n]+)') do
    lines[#lines + 1] = {key = name, held = tonumber(held), from = tonumber(from), terms = terms}
  end
  if not state or (#lines == 0 and state ~= 's') then bad = 'XQBAD not a record of ours: ' .. key end
  return state, lines
end
