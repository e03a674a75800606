{'name': 'Handles for the test of sessionfs', 'version': '1.0', 'depends': ['web'], 'license': 'LGPL-3', 'installable': True}
