-- Returns a user's rows of every origin, "origin device" and row in turn, without those below their origin's floor and
-- those that a gateway_down took away. KEYS and rows as in apply.lua. ARGV: milliseconds that a fence counts.
local rows, positions, out = redis.call('HGETALL', KEYS[3]), {}, {}
local life = tonumber(ARGV[1])

local function millis(stamp)
  return tonumber(string.sub(stamp, 1, 12), 16)
end

local function isVoid(fence, row)
  local epoch = string.sub(row, 65, 80)
  if #fence < 48 then
    return epoch <= string.sub(fence, 1, 16)
      and (#fence < 32 or millis(string.sub(fence, 17, 32)) + life >= millis(string.sub(row, 33, 48)))
  end
  for at = 1, #fence, 48 do
    if epoch <= string.sub(fence, at, at + 15) and string.sub(row, 17, 32) < string.sub(fence, at + 32, at + 47) then
      return true
    end
  end
  return false
end

for i = 1, #rows, 2 do
  local field, row = rows[i], rows[i + 1]
  local origin = string.match(field, '^[^ ]+')
  local gateway = string.sub(row, 86 + tonumber(string.sub(row, 82, 85), 16))
  local fence = redis.call('HGET', KEYS[2], origin .. ' ' .. gateway) or '0000000000000000'
  local position = redis.call('HGET', KEYS[1], origin) or ''
  local floor = tonumber(string.match(position, ' (%d+)$') or '0')
  if not isVoid(fence, row) and string.sub(row, 17, 32) >= string.format('%016x', floor) then
    out[#out + 1] = field
    out[#out + 1] = row
  end
end
return out
