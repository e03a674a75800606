{'name': 'Sessions by redis-py', 'version': '1.0', 'depends': ['web'], 'license': 'LGPL-3', 'installable': True}
