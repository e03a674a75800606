{'name': "Odoo's suites on real session files", 'version': '1.0', 'depends': ['web'], 'license': 'LGPL-3', 'installable': True}
