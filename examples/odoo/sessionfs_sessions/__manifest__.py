{
    "name": "Sessions on sessionfs",
    "summary": "Log a person out everywhere; at most N sessions for each user",
    "version": "1.0",
    "license": "LGPL-3",
    "category": "Technical",
    "depends": ["web"],
    "data": ["data.xml"],
}
