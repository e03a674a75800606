-- Whether this user may run scripts, as a save does. It calls no command of writing.
-- Answers: taken

return answer('taken')
