-- Whether this user may run scripts, as a save does. It calls no command of writing.
-- KEYS: the key of the probe
-- Answers: taken

return answer('taken')
