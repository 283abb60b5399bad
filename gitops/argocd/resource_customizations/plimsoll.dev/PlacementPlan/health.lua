-- Health of a PlacementPlan of Plimsoll: a record, whatever became of the decision.
local hs = { status = "Healthy", message = "Recorded" }
if obj.status ~= nil and obj.status.state ~= nil then
  hs.message = obj.status.state
end
return hs
