-- Health of a PlacementPolicy of Plimsoll, as kstatus has it: what is stalled needs a person.
local hs = { status = "Progressing", message = "Plimsoll has not looked at it yet" }
local status = obj.status
if status == nil then
  return hs
end
if status.observedGeneration == nil or status.observedGeneration ~= obj.metadata.generation then
  hs.message = "Plimsoll has not looked at this generation yet"
  return hs
end
local ready = nil
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Stalled" and condition.status == "True" then
    hs.status = "Degraded"
    hs.message = condition.message
    return hs
  end
  if condition.type == "Ready" then
    ready = condition
  end
end
if ready ~= nil then
  hs.message = ready.message
  if ready.status == "True" then
    hs.status = "Healthy"
  end
end
return hs
