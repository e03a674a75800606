#!/usr/bin/env python3
"""Makes sessions as Odoo 14 to 19 save them, for the dictionary that contents are packed with, and to measure it.

    sessions.py DIR NUMBER SEED

What Odoo writes is what a dictionary can know: keys in their order, the words around them, and what nearly all values
have in common. What differs between sessions is random here: tokens, ids, addresses, times.
"""
import json
import pathlib
import pickle
import random
import sys

LANGUAGES = ["en_US"] * 6 + ["de_DE", "fr_FR", "fr_BE", "nl_NL", "nl_BE", "es_ES", "es_MX", "it_IT", "pt_BR", "pt_PT",
                            "pl_PL", "zh_CN", "ja_JP", "ar_001", "vi_VN", "tr_TR", "ro_RO", "cs_CZ", "sv_SE", "da_DK"]
ZONES = ["Europe/Brussels", "Europe/Paris", "Europe/Berlin", "Europe/Amsterdam", "Europe/Madrid", "Europe/Rome",
         "Europe/London", "America/New_York", "America/Chicago", "America/Los_Angeles", "America/Mexico_City",
         "America/Sao_Paulo", "Asia/Kolkata", "Asia/Dubai", "Asia/Shanghai", "Asia/Ho_Chi_Minh", "Australia/Sydney", "UTC"]
PLATFORMS = ["windows", "windows", "windows", "macos", "linux", "android", "android", "iphone", "ipad"]
BROWSERS = ["chrome", "chrome", "chrome", "firefox", "safari", "edge", "opera"]


class Maker:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def hex(self, digits):
        return f"{self.random.getrandbits(4 * digits):0{digits}x}"

    def base64(self, length):
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        return "".join(self.random.choices(letters, k=length))

    def word(self):
        return "".join(self.random.choices("abcdefghijklmnopqrstuvwxyz", k=self.random.randint(3, 9)))

    def time(self):
        return 1_700_000_000 + self.random.randrange(150_000_000)

    def address(self):
        if self.random.random() < 0.8:
            return ".".join(str(self.random.randrange(1, 255)) for _ in range(4))
        return ":".join(self.hex(4) for _ in range(8))

    def maybe(self, odds):
        return self.random.random() < odds

    def id(self):
        return self.random.randrange(1, 10 ** self.random.randint(1, 6))

    def context(self, uid):
        context = {"lang": self.random.choice(LANGUAGES)}
        if uid or self.maybe(0.3):
            context["tz"] = self.random.choice(ZONES)
        if uid:
            context["uid"] = uid
        if uid and self.maybe(0.3):
            context["allowed_company_ids"] = [self.id() for _ in range(self.random.randint(1, 3))]
        return context

    def trace(self):
        first = self.time()
        return {"platform": self.random.choice(PLATFORMS), "browser": self.random.choice(BROWSERS),
                "ip_address": self.address(), "first_activity": first,
                "last_activity": first + self.random.randrange(10_000_000)}

    def identity(self, version):
        """The keys that each session has, in the order of that version."""
        uid = self.id() if self.maybe(0.6) else None
        login = None
        if uid:
            login = self.random.choice(["admin", self.word(), f"{self.word()}.{self.word()}@{self.word()}.com",
                                        f"{self.word()}@{self.word()}.com", f"{self.word()}@{self.word()}.de"])
        db = self.random.choice([self.word(), "prod", "odoo", f"{self.word()}_prod", f"odoo{version}"])
        values = {"db": db, "uid": uid, "login": login, "session_token": self.hex(64) if uid else None,
                  "context": self.context(uid), "debug": "1" if self.maybe(0.05) else ""}
        if version <= 15:
            return values
        order = ["context", "db", "debug", "login", "uid", "session_token"]
        if version >= 19:
            order.insert(1, "create_time")
            values["create_time"] = self.time() + self.random.random()
        return {key: values[key] for key in order}

    def shop(self, session):
        if self.maybe(0.7):
            session["geoip" if self.maybe(0.3) else "website_sale_current_pl"] = {} if self.maybe(0.3) else self.id()
        if self.maybe(0.6):
            session["sale_order_id"] = self.id()
            session["website_sale_cart_quantity"] = self.random.randint(1, 9)
        if self.maybe(0.3):
            session["sale_last_order_id"] = self.id()
        if self.maybe(0.2):
            session["website_sale_selected_pl_id"] = self.id()
        if self.maybe(0.2):
            session["wishlist_ids"] = [self.id() for _ in range(self.random.randint(1, 6))]
        if self.maybe(0.1):
            session["__website_sale_last_tx_id"] = self.id()
        if self.maybe(0.1):
            session["force_website_id"] = self.random.randint(1, 5)

    def portal(self, session):
        for key in ("my_quotations_history", "my_orders_history", "my_invoices_history", "my_tasks_history",
                    "my_projects_history", "my_purchases_history", "my_tickets_history"):
            if self.maybe(0.3):
                session[key] = [self.id() for _ in range(self.random.randint(1, 40))]

    def rare(self, version, session):
        if self.maybe(0.05):
            session["pre_uid"], session["pre_login"] = self.id(), self.word()
        if version >= 17 and self.maybe(0.05):
            session["identity-check-last"] = self.time() + self.random.random()
        if version >= 19 and self.maybe(0.1):
            session["identity-check-next"] = self.time() + self.random.random()
        if version >= 19 and self.maybe(0.1):
            session["next_sid"], session["deletion_time"] = self.base64(84), self.time() + self.random.random()
        if version >= 19 and self.maybe(0.2):
            session["gc_previous_sessions"] = True
        if self.maybe(0.05):
            session["is_websocket_session"] = True
        if self.maybe(0.03):
            session["profile_session"] = None

    def session(self, version):
        session = self.identity(version)
        if version == 16:
            session["_geoip"] = {}
        if version >= 18:
            traces = [self.trace() for _ in range(self.random.choice([0, 1, 1, 1, 2, 3]))]
            if version == 18 or self.maybe(0.5):
                session["_trace"] = traces
            else:
                session["_devices"] = {self.hex(64): trace for trace in traces}
                session["_device_salt"] = self.hex(32)
        if self.maybe(0.4):
            self.shop(session)
        if self.maybe(0.15):
            self.portal(session)
        self.rare(version, session)
        return session

    def file(self):
        version = self.random.choice([14, 15, 16, 17, 17, 18, 18, 18, 19, 19, 19, 19])
        session = self.session(version)
        if version <= 17:
            return pickle.dumps(session, pickle.HIGHEST_PROTOCOL)
        return json.dumps(session).encode()


def main():
    directory, number, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    directory.mkdir(parents=True, exist_ok=True)
    maker = Maker(seed)
    for one in range(number):
        (directory / f"{one:06}").write_bytes(maker.file())


if __name__ == "__main__":
    main()
