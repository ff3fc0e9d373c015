"""The same ClientApp, where differential privacy is the client's part."""

from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod

from digitsapp import client_app

fixed = ClientApp()
fixed.train(mods=[fixedclipping_mod])(client_app.train)
fixed.evaluate()(client_app.evaluate)

adaptive = ClientApp()
adaptive.train(mods=[adaptiveclipping_mod])(client_app.train)
adaptive.evaluate()(client_app.evaluate)
