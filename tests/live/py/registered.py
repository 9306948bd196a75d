"""What `--import registered` leaves behind: objects that serve from the first moment."""

import erlang
import servers

erlang.register("counter", servers.Counter())
erlang.register(erlang.Atom("alone"), servers.Alone())
erlang.register("nothing", servers.Nothing())
