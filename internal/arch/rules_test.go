package arch

// own is a rule about imports within this module: the packages it applies to, and all that they may import of it.
// Paths are relative to the module; a trailing /... takes in what is below. A package may always import what is below
// itself. The first rule that fits a package counts; a package that fits none is a failure, so that a new folder gets a
// place in the design before it gets code.
type own struct {
	of     []string
	may    []string
	reason string
}

var ownRules = []own{
	{
		[]string{"im"},
		nil,
		"im is the nouns: everything imports it, so it imports nothing but the standard library, does no I/O and reads no clock",
	},
	{
		[]string{"proto/..."},
		nil,
		"proto is the schema: generated code that knows nothing of the rest",
	},
	{
		[]string{"wire"},
		[]string{"im", "proto/..."},
		"wire is the one place that knows how values are encoded; it maps bytes to nouns and nothing else",
	},
	{
		[]string{"client/..."},
		[]string{"im", "wire"},
		"the client is a library for other people's programs: it speaks the protocol and knows nothing of servers",
	},
	{
		[]string{"gateway/..."},
		[]string{"im", "wire", "gateway/...", "internal/labels", "internal/proxied"},
		"services never import each other nor an adapter: they declare the small interfaces they need, so that each can be tested, replaced and deployed alone",
	},
	{
		[]string{"imserver/..."},
		[]string{"im", "wire", "imserver/...", "internal/labels"},
		"services never import each other nor an adapter: they declare the small interfaces they need, so that each can be tested, replaced and deployed alone",
	},
	{
		[]string{"ipconf/..."},
		[]string{"im", "wire", "ipconf/...", "internal/proxied"},
		"services never import each other nor an adapter: they declare the small interfaces they need, so that each can be tested, replaced and deployed alone",
	},
	{
		[]string{"router/...", "replicator/..."},
		[]string{"im", "wire", "internal/labels"},
		"services never import each other nor an adapter: they declare the small interfaces they need, so that each can be tested, replaced and deployed alone",
	},
	{
		[]string{"internal/postgres/..."},
		[]string{"im", "wire", "imserver/view/...", "internal/postgres/..."},
		"the timelines adapter stores what imserver's pure core derives, whose row types it takes; it knows no service",
	},
	{
		[]string{"internal/kafka/...", "internal/redis/...", "internal/registry/...", "internal/ownership/...", "internal/certs/...", "internal/config/...", "internal/consul/...", "internal/geo/..."},
		[]string{"im", "wire", "internal/kafka/...", "internal/redis/...", "internal/registry/..."},
		"an adapter wraps one dependency in the nouns of im: if it knew a service or another adapter, replacing one would mean changing two",
	},
	{
		[]string{"internal/rpc/..."},
		[]string{"im", "wire", "proto/..."},
		"rpc carries nouns between services, both ends in one package: it knows their encodings, not the services",
	},
	{
		[]string{"internal/backend/...", "internal/embedded/...", "internal/testenv/..."},
		[]string{"internal/process", "internal/backend", "internal/embedded"},
		"how servers are run on this machine would serve any program: it knows how processes are run, and nothing of messaging",
	},
	{
		[]string{"internal/await/...", "internal/labels/...", "internal/telemetry/...", "internal/faultnet/...", "internal/process/...", "internal/proxied/..."},
		nil,
		"waiting, telemetry, fault injection, processes and proxies' headers would serve any program: they know nothing of messaging",
	},
	{
		[]string{"internal/checker/..."},
		[]string{"im"},
		"the checker judges histories by the invariants alone: sharing code with what it judges would share its mistakes",
	},
	{
		[]string{"internal/regions/..."},
		[]string{"im", "wire"},
		"what a region's end consists of, and in which order, must be readable and testable without any service: it asks replicators through an interface of its own",
	},
	{
		[]string{"internal/simulator/..."},
		[]string{"im", "wire", "imserver/accept", "imserver/owner", "imserver/view", "router/routes", "replicator", "client/timeline"},
		"the simulator runs the pure cores as they are, and makes up everything else: it needs no adapter, and nothing needs it",
	},
	{
		[]string{"internal/console/...", "web/..."},
		[]string{"im", "web"},
		"the console shows what it is given through its own interfaces, so that a browser test can feed it anything",
	},
	{
		[]string{"internal/demo/...", "internal/loadgen/..."},
		[]string{"im", "wire", "client/...", "internal/checker/...", "internal/await/..."},
		"demo and load come in through the client, as users do: what they measure must be what users get",
	},
	{
		[]string{"internal/gameday/..."},
		[]string{"im", "internal/checker", "internal/console", "internal/demo"},
		"a game day breaks what it is given through its own interfaces, has the demo's users write, and judges",
	},
	{
		[]string{"internal/cluster/..."},
		[]string{"im", "internal/backend/...", "internal/process/...", "internal/config/...", "internal/certs/...", "internal/faultnet/..."},
		"the launcher runs services as processes and writes their configuration: it knows their files and ports, not their code",
	},
	{
		[]string{"internal/app/..."},
		[]string{"..."},
		"app is the composition root: the one place that sees services and adapters at once",
	},
	{
		[]string{"cmd/..."},
		[]string{"im", "wire", "client/...", "internal/app/...", "internal/checker/...", "internal/cluster/...", "internal/config/...", "internal/console/...", "internal/demo/...", "internal/gameday/...", "internal/loadgen/...", "ipconf/storm"},
		"main is thin: it parses flags and calls app, which tests can call too",
	},
	{
		[]string{"test/..."},
		[]string{"..."},
		"tests of the whole may see everything",
	},
	{
		[]string{"bench/..."},
		[]string{"..."},
		"benchmarks of the whole may see everything",
	},
	{
		[]string{"internal/arch"},
		nil,
		"the rules do not depend on what they rule",
	},
}

// foreign is a rule about a dependency: which packages of this module may import it. A package that no rule names is free
// for all.
type foreign struct {
	dependency []string // import paths, with what is below them
	only       []string
	reason     string
}

var foreignRules = []foreign{
	{
		[]string{"github.com/segmentio/kafka-go"},
		[]string{"internal/kafka/..."},
		"Kafka stands behind one adapter, which alone knows the traps of its client",
	},
	{
		[]string{"github.com/twmb/franz-go"},
		[]string{"internal/embedded/...", "internal/backend"},
		"franz-go is here for its fake broker, and its encodings to ask whether a real one is up: two Kafka clients would mean two sets of guarantees",
	},
	{
		[]string{"github.com/jackc/pgx/v5", "github.com/pressly/goose/v3"},
		[]string{"internal/postgres/...", "internal/backend/...", "internal/embedded/...", "internal/app/..."},
		"PostgreSQL stands behind one adapter; backend and embedded ask whether their server answers",
	},
	{
		[]string{"github.com/redis/go-redis/v9"},
		[]string{"internal/redis/...", "internal/app/..."},
		"Redis stands behind one adapter",
	},
	{
		[]string{"github.com/alicebob/miniredis/v2", "github.com/fergusstrange/embedded-postgres"},
		[]string{"internal/embedded/..."},
		"embedded servers are for dev and tests: nothing else may come to need them",
	},
	{
		[]string{"github.com/hashicorp/consul"},
		[]string{"internal/consul/..."},
		"Consul stands behind one adapter",
	},
	{
		[]string{"google.golang.org/grpc"},
		[]string{"internal/rpc/...", "proto/...", "internal/telemetry", "internal/embedded"},
		"gRPC is how services talk today, not what they are: both ends live in internal/rpc; telemetry takes traces by OTLP, which is gRPC; embedded takes its in-memory sockets",
	},
	{
		[]string{"github.com/antipode-im/antipode/proto"},
		[]string{"wire", "internal/rpc/..."},
		"generated types cross wire as nouns, checked: whoever used them raw would skip the checks",
	},
	{
		[]string{"github.com/oschwald/maxminddb-golang/v2", "github.com/maxmind/mmdbwriter"},
		[]string{"internal/geo/..."},
		"where addresses are is one adapter's knowledge; the writer makes its test databases",
	},
	{
		[]string{"github.com/pires/go-proxyproto"},
		[]string{"internal/proxied"},
		"the PROXY protocol comes before a public listener, and is read in one place",
	},
	{
		[]string{"github.com/gorilla/websocket"},
		[]string{"gateway/...", "client/...", "test/..."},
		"WebSocket is the edge: only its two ends know it",
	},
	{
		[]string{"github.com/quic-go"},
		[]string{"gateway/...", "client/...", "test/...", "bench/..."},
		"WebTransport is the edge: only its two ends know it",
	},
	{
		[]string{"github.com/golang-jwt/jwt/v5"},
		[]string{"gateway/auth", "gateway/issue"},
		"tokens are verified in one place",
	},
	{
		[]string{"go.opentelemetry.io/otel/sdk", "go.opentelemetry.io/otel/exporters", "github.com/prometheus/client_golang"},
		[]string{"internal/telemetry/...", "internal/loadgen", "test/..."},
		"services measure through the OpenTelemetry API; what is exported where is telemetry's business; a load generator keeps its clients' spans to itself",
	},
	{
		[]string{"github.com/goccy/go-yaml"},
		[]string{"internal/config/...", "test/..."},
		"one package reads configuration, strictly",
	},
	{
		[]string{"github.com/spf13/cobra"},
		[]string{"cmd/..."},
		"commands are main's business",
	},
	{
		[]string{"github.com/antipode-im/antipode/gateway/issue"},
		[]string{"internal/app/...", "test/...", "bench/..."},
		"issuing tokens is for dev and trials: no service must be able to",
	},
	{
		[]string{"github.com/antipode-im/antipode/internal/embedded"},
		[]string{"internal/app/...", "test/..."},
		"embedded servers are for dev and tests",
	},
	{
		[]string{"github.com/antipode-im/antipode/internal/app"},
		[]string{"cmd/...", "test/...", "bench/..."},
		"nothing below the composition root knows it",
	},
	{
		[]string{"github.com/pkg/errors", "github.com/sirupsen/logrus", "go.uber.org/zap", "golang.org/x/exp"},
		nil,
		"the standard library does it: errors, log/slog, slices and maps",
	},
}

// badNames are what packages are called that hold whatever had no place.
var badNames = []string{"common", "util", "utils", "helper", "helpers", "base", "types", "model", "models", "manager", "misc", "shared"}

const maxLines = 700
