//! Every code that a configuration can be answered with: its title, cause and cure. Docs, tests
//! and `fairlead check --explain CODE` read this table. Pure.
//!
//! Codes are append-only: a number keeps its meaning for ever, since people search for it and
//! scripts match on it. FL00xx are errors, FL01xx are warnings.

use super::diagnostic::Severity;

/// What a code means.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// `FL0012`.
    pub id: &'static str,
    /// Errors stop the file from being used, warnings don't.
    pub severity: Severity,
    /// What is wrong, in a few words.
    pub title: &'static str,
    /// Why that is wrong.
    pub cause: &'static str,
    /// What to do.
    pub cure: &'static str,
}

macro_rules! codes {
    ($($name:ident = $id:literal, $severity:ident, $title:literal, $cause:literal, $cure:literal;)*) => {
        $(
            #[doc = $title]
            pub static $name: Code = Code {
                id: $id,
                severity: Severity::$severity,
                title: $title,
                cause: $cause,
                cure: $cure,
            };
        )*
        /// All codes, in the order of their numbers.
        pub static ALL: &[&Code] = &[$(&$name),*];
    };
}

codes! {
    SYNTAX = "FL0001", Error, "the file is not valid TOML",
        "the parser of TOML 1.1 does not understand this place",
        "texts need quotes, each key stands once on a line of its own as `key = value`, and brackets and quotes are closed";
    DUPLICATE_KEY = "FL0002", Error, "a key or a table is there twice",
        "a key may have one value only; which of two was meant cannot be known",
        "remove one of them; a second service or backend begins with its own `[[service]]` or `[[service.backend]]`";
    UNKNOWN_KEY = "FL0003", Error, "there is no such key",
        "a key that is not known would have no effect, and that would not be seen until it matters",
        "correct the spelling, move the key to the table it belongs to, or remove it";
    MISSING_KEY = "FL0004", Error, "a key that must be there is missing",
        "there is no sensible default for this key",
        "add the key";
    WRONG_TYPE = "FL0005", Error, "the value has the wrong type",
        "the key wants a text, a number, a truth value, a list or a table, and got another of these",
        "texts stand in double quotes, numbers and `true` and `false` do not, lists stand in square brackets";
    UNKNOWN_WORD = "FL0006", Error, "the value is not one of the words that this key knows",
        "the key takes one of a few words",
        "use one of the words that the message lists";
    OUT_OF_RANGE = "FL0007", Error, "the number is too small or too large",
        "the number is outside of the range that the key allows",
        "use a number within the range that the message names";
    BAD_ADDRESS = "FL0008", Error, "the text is not an IP address",
        "an address is an IPv4 address such as 192.0.2.1 or an IPv6 address such as 2001:db8::1, without port, prefix length, brackets, zone or host name",
        "write the bare address; the port has a key of its own; host names are not looked up, since forwarding must not depend on a name server";
    BAD_DURATION = "FL0009", Error, "the text is not a duration",
        "a duration is a text of a number and a unit, such as \"500ms\", \"2s\" or \"1m 30s\"",
        "put the number and its unit in quotes";
    BAD_NAME = "FL0010", Error, "the name is not valid",
        "names stand in metrics, paths and commands: they have 1 to 63 lower-case letters, digits and hyphens, and begin and end with a letter or a digit",
        "choose a name of this form";
    DUPLICATE_SERVICE = "FL0011", Error, "two services have the same name",
        "commands, metrics and history know a service by its name",
        "rename one of them";
    DUPLICATE_BACKEND = "FL0012", Error, "two backends of a service have the same name",
        "commands, metrics and history know a backend by `service/backend`",
        "rename one of them";
    DUPLICATE_VIP = "FL0013", Error, "two services have the same address, port and protocol",
        "a packet can belong to one service only",
        "change the address, the port or the protocol of one of them, or put all backends into one service";
    MIXED_FAMILIES = "FL0014", Error, "a backend's address is of another family than the service's",
        "packets are forwarded without translation between IPv4 and IPv6",
        "give the backend an address of the service's family, or make a second service with an address of the other family";
    BAD_VIP = "FL0015", Error, "the address cannot be that of a service",
        "clients cannot reach a service at an unspecified, loopback, link-local, multicast, broadcast or reserved address",
        "use a unicast address that is routed to this machine";
    BAD_BACKEND_ADDRESS = "FL0016", Error, "the address cannot be that of a backend",
        "packets cannot be forwarded to an unspecified, loopback, link-local, multicast, broadcast or reserved address",
        "use the unicast address that the backend has on the network between it and the balancer";
    FORWARDING_LOOP = "FL0017", Error, "a backend's address is the address of a service",
        "a packet would come back to the balancer again and again until its time to live ends",
        "give the backend's own address; for l2dsr too, where the backend has the service's address on its loopback besides";
    DUPLICATE_ENDPOINT = "FL0018", Error, "two backends of a service have the same address and port",
        "one server would be checked and counted twice, and drained only by half",
        "remove one of them; to give a server a larger share, raise its weight";
    L2DSR_PORT = "FL0019", Error, "a backend of l2dsr, ipip or gue has another port than its service",
        "l2dsr changes MAC addresses only, ipip and gue nothing in the packet, so that the backend gets it with the service's port",
        "leave the backend's port out, or use forwarding \"dnat\"";
    NO_WEIGHT = "FL0020", Error, "all backends of a service have weight 0",
        "a backend of weight 0 takes no new flows, so that no flow could begin",
        "give at least one backend a weight of 1 or more; to take a service out of use, set `admin = \"disabled\"` on its backends or remove it";
    NO_BACKEND = "FL0021", Error, "a service has no backends",
        "there would be nowhere to send its packets",
        "add a `[[service.backend]]` with name and address";
    DURATION_RANGE = "FL0022", Error, "the duration is too short or too long",
        "probes more often than every 10 ms are an attack, probes less often than every hour no check; other durations have bounds for like reasons",
        "use a duration within the range that the message names";
    TIMEOUT_OVER_INTERVAL = "FL0023", Error, "the timeout is longer than the interval",
        "probes of one target would overlap, and results would come out of order",
        "make the timeout at most the interval";
    JITTER_OVER_INTERVAL = "FL0024", Error, "the jitter is not shorter than the interval",
        "the start of a probe moves by up to the jitter either way, and probes must stay in order",
        "make the jitter shorter than the interval; a tenth of it is usual";
    KEY_WITHOUT_EFFECT = "FL0025", Error, "the key has no effect here",
        "another key of the same table makes this one meaningless, for example a path where the check is not an HTTP one",
        "remove the key, or change the other one";
    BAD_STATUS = "FL0026", Error, "the text is not an HTTP status or a range of them",
        "a status is a number from 100 to 599; a range is two of them with a hyphen, the lower first",
        "write 200, \"200-299\" or a list of these";
    BAD_PATH = "FL0027", Error, "the text is not the path of an HTTP request",
        "a path begins with `/`, has at most 2048 characters, and has no spaces, controls, `#` or letters outside of ASCII",
        "write the path and query only, without scheme and host; encode other characters as %XX";
    BAD_METHOD = "FL0028", Error, "the text is not the method of a health check",
        "a method is a word of capital letters such as GET or HEAD; CONNECT would turn the server into a proxy",
        "use GET, HEAD, OPTIONS or POST";
    BAD_TEXT = "FL0029", Error, "the text is empty, too long or has characters that may not be there",
        "a host goes into the head of an HTTP request, and a text to look for must be there to be found",
        "use a host such as \"www.example.org\" or \"www.example.org:8080\"; a text to look for has 1 to 1024 bytes";
    BAD_SIZE = "FL0030", Error, "the size of a map has the wrong form",
        "the flow table is indexed with the low bits of a hash, so that it needs a power of two; ring slots are stored in pairs",
        "use the next size that the message names";
    TOO_MANY = "FL0031", Error, "there is more of something than the limits allow",
        "the maps have the sizes that `[limits]` gives them",
        "raise the limit in `[limits]` (a change needs a restart and new maps), or configure less";
    RING_TOO_SMALL = "FL0032", Error, "the ring has fewer slots than the service has backends",
        "a backend without a slot would never take a flow",
        "leave `ring-size` out, or use a prime of about a hundred slots a backend";
    NO_INTERFACE = "FL0033", Error, "no interface is named",
        "the balancer sees packets only where it is attached",
        "name the interfaces that clients' packets (and, for dnat, the backends' replies) arrive on";
    BAD_INTERFACE = "FL0034", Error, "the text is not the name of an interface",
        "Linux allows 1 to 15 bytes without spaces, slashes and colons, and neither `.` nor `..`",
        "use a name that `ip link` shows";
    DUPLICATE_INTERFACE = "FL0035", Error, "an interface is named twice",
        "the program is attached to an interface once",
        "remove one of them";
    CLAIM_NOT_ATTACHED = "FL0036", Error, "the service's address is claimed on an interface without balancer",
        "packets to the address would arrive where no program handles them, and be refused by this machine",
        "add the interface to `interfaces` in `[daemon]`, or claim the address on one that is there";
    BAD_PATHNAME = "FL0037", Error, "the path is not absolute",
        "the daemon may be started from anywhere, and finds a file again only at an absolute path without `..`",
        "begin the path with `/`";
    BAD_METRICS = "FL0038", Error, "the text is not an address with a port",
        "metrics are served at one IP address and port",
        "write \"127.0.0.1:9460\", \"[::1]:9460\" or \"off\"";
    NOT_TEXT = "FL0039", Error, "the file is not text",
        "a configuration is UTF-8 text without NUL bytes; this is something else, or was torn while it was written",
        "convert the file to UTF-8 (`iconv`), or restore it; `last-good.toml` in the state directory holds the last one that was in use";
    TOO_LARGE = "FL0040", Error, "the file is too large",
        "a configuration of the most services and backends that there can be is smaller than 16 MiB",
        "look whether the path is right";
    UNREADABLE = "FL0041", Error, "the file cannot be read",
        "it does not exist, is not a regular file, or may not be read by this user",
        "see the reason in the message";
    BAD_TUNNEL_SOURCE = "FL0042", Error, "the text is not the source of tunnels",
        "the source is a unicast address, or a prefix without host bits of 8 to 32 bits (IPv4) or 96 to 128 bits (IPv6), and there is at most one of each family",
        "write a prefix such as \"10.9.0.0/24\" or \"fd00:9::/112\"; it need not be an address of this machine, but backends must let it in and nobody else may have it";
    NO_TUNNEL_SOURCE = "FL0043", Error, "a service needs a tunnel, and there is no source for it",
        "ipip and gue put each packet into another one, which needs a source address of the backend's family",
        "add `tunnel-source` in [daemon], with a prefix of the family of the service's backends";
    TUNNEL_OVERLAP = "FL0044", Error, "an address lies within the source of tunnels",
        "a backend drops a packet that seems to come from itself, and errors about tunnelled packets would go to a service",
        "use a prefix for `tunnel-source` that has no other use";
    BAD_SOURCE = "FL0045", Error, "the text is not a prefix of clients",
        "`allow` and `deny` take addresses and prefixes of the service's family, such as 10.0.0.0/8, with no bits set beyond the length",
        "write addresses or prefixes such as \"192.0.2.7\" or \"10.0.0.0/8\"";
    SOURCE_CONFLICT = "FL0046", Error, "a prefix is both allowed and denied",
        "the longest prefix that holds a client decides, so one prefix cannot say both",
        "remove it from one of the lists";
    BAD_CHECK_NETWORK = "FL0047", Error, "the text is not a network that checks may go to",
        "`check-networks` takes addresses and prefixes of both families, such as 10.0.0.0/8, with no bits set beyond the length",
        "write addresses or prefixes such as \"10.0.0.0/8\" or \"fd00::/8\"";
    BAD_PORT = "FL0050", Error, "the text names no ports",
        "a port is a number from 1 to 65535, a range is two of them with a hyphen, the lower first, and \"any\" is all of them",
        "write 80, \"8000-8099\" or \"any\"";
    OVERLAP = "FL0051", Error, "two services overlap, and neither is more specific",
        "the longest prefix takes a packet, then a protocol of its own before any, then the fewest ports; of two that are equal in all of that, it cannot be known",
        "move the ports of one of them, or make one range smaller than the other if it is meant as an exception";
    DNAT_RANGE = "FL0052", Error, "dnat cannot translate replies of such a service",
        "a reply has the backend's address and port only; address, port and protocol that the client sent to must follow from these",
        "use forwarding \"l2dsr\" or \"ipip\", or one address and one of tcp, udp and sctp; ports may be a range, which backends get as the client chose them";
    RANGE_BACKEND_PORT = "FL0053", Error, "a backend of a service with more than one port has a port",
        "its packets keep the port that the client chose, in all ways to forward",
        "leave the backend's port out; the port of its health check is `port` in [service.health]";
    RANGE_CHECK_PORT = "FL0054", Error, "a service with more than one port does not say which one is checked",
        "a health check is a connection to one port",
        "add `port = ...` to [service.health], or set its `type` to \"none\"";
    CLAIM_PREFIX = "FL0055", Error, "a prefix cannot be claimed on an interface",
        "each of its addresses would have to be added to the interface and announced by ARP or neighbour discovery, one after the other",
        "leave `claim` out, and route the prefix to this machine on the router before it; single addresses can be claimed";
    TOO_MANY_RANGES = "FL0056", Error, "there are too many services with ranges",
        "a packet that no service with one address and port takes looks for one prefix length after the other, and then at one service after the other",
        "join ranges or prefixes; services with one address, one port and one protocol do not count, and there may be any number of them";
    SCTP_PORT = "FL0057", Error, "an SCTP backend has another port than its service",
        "SCTP's CRC32c covers the ports and all data, not the addresses (RFC 9260 section 6.8): dnat changes the address only",
        "leave the backend's port out";
    GUE_IN_GUE = "FL0060", Error, "the datagrams of a service look like tunnels",
        "gue is known by its UDP port, so that backends drop the service's own datagrams to that port as a tunnel within the tunnel",
        "give `gue-port` another number, here and to `fairlead decap --gue-port` on the backends";
    BAD_CONFIG_IDS = "FL0070", Error, "the list is none of config ids",
        "the first three bits of a connection id are its config id (draft-ietf-quic-load-balancers, section 3): 0 to 6, while 7 names no server; two at a time are enough to go from one to the next",
        "write one number from 0 to 6, or two while servers go from one to the other, such as [0] or [0, 1]";
    BAD_SERVER_ID = "FL0071", Error, "the text is no server id",
        "a server id is the 1 to 15 bytes that the server writes into its connection ids behind the first byte",
        "write two hex digits for each byte, such as \"0a01\"";
    DUPLICATE_SERVER_ID = "FL0072", Error, "two backends of a service have the same server id",
        "a connection id must name one server",
        "give each server of the service an id of its own, here and in the server's own configuration";
    SERVER_ID_LENGTH = "FL0073", Error, "server ids of a service have different lengths",
        "a connection id does not say how long its server id is: all of a service must have one length",
        "write them with as many bytes as the servers do, zeros included";
    SPREAD_CONFLICT = "FL0074", Error, "datagrams of this service cannot be scheduled one by one",
        "dnat finds the client of a reply by its flow, and a connection id names the backend of all its packets: both need what udp-spread \"datagram\" does without",
        "use udp-spread \"flow\", or forwarding \"l2dsr\", \"ipip\", \"gue\" or \"fullnat\" without `quic-config-ids`";
    SPREAD_TOGETHER = "FL0075", Error, "datagrams of this service cannot be both scheduled one by one and kept together",
        "`udp-spread` \"datagram\" sends each datagram of a client to another backend, and this sends all of them to one",
        "use udp-spread \"flow\", or scheduler \"maglev\" with all five fields and no `affinity-timeout`";
    BAD_HASH_FIELDS = "FL0076", Error, "there are no hashes of so many fields",
        "1: the client's address; 2: and the service's; 3: and its port and protocol; 5: all of the flow, its client's port too",
        "use 1, 2, 3 or 5";
    BAD_CLIENT_PREFIX = "FL0077", Error, "the prefix is longer than a client's address",
        "clients have addresses of the service's family: 32 bits with IPv4",
        "use 1 to 32 for IPv4, 1 to 128 for IPv6";
    BAD_HEX = "FL0080", Error, "the text is not bytes in hexadecimal digits",
        "datagrams of checks have 1 to 1024 bytes; in hexadecimal, each byte is two digits",
        "write pairs of digits such as \"00ff 10\"; blanks may stand between them";
    BAD_NAT_SOURCE = "FL0081", Error, "the text is not an address that stands for clients",
        "`nat-source` takes unicast addresses, or prefixes without host bits of 8 to 32 bits (IPv4) or 96 to 128 bits (IPv6), and at most one of each family",
        "write an address or a small prefix such as \"198.51.100.0/30\"; backends must reach all of its addresses by this machine, and nobody else may have one";
    NO_NAT_SOURCE = "FL0082", Error, "a service of fullnat has no address to stand for clients",
        "fullnat sends packets to backends from an address of the balancer's own, of the service's family",
        "add `nat-source` to [daemon], with an address or a small prefix of that family";
    NAT_OVERLAP = "FL0083", Error, "an address stands for clients and for a service or a backend",
        "replies to it would be taken for what they are not",
        "use addresses for `nat-source` that have no other use";
    FULLNAT_RANGE = "FL0084", Error, "fullnat cannot translate for such a service",
        "an entry of fullnat holds one client's address and port, and its service has one of each, over TCP or UDP",
        "use forwarding \"dnat\", \"l2dsr\" or \"ipip\" for ranges, SCTP and other protocols, or several services";
    NAT_IDLE_ORDER = "FL0085", Error, "a flow would keep its port for longer before it is proven than afterwards",
        "anybody can make such flows with forged addresses, so the port of one that is not proven yet is kept for the shorter time",
        "make the first time shorter, or the second longer";
    ONLY_SORRY = "FL0090", Error, "a service has sorry backends only",
        "sorry backends are for when nobody else is left: without others, flows would never go anywhere else",
        "give those that usually serve a `tier` from 0 to 9, or leave the key out";
    NEVER_CLAIMED = "FL0091", Error, "a service's address would never be claimed",
        "it is claimed when as many backends are up as `min-healthy` says, and sorry backends do not count: there are fewer than that",
        "use a number that leaves room for some to be down, or leave the key out: then one is enough";
    NO_RESET = "FL0092", Error, "flows of this protocol cannot be reset",
        "a reset ends a TCP connection; the balancer can make none for other protocols",
        "use \"migrate\": their clients are served by another backend from the next packet on";
    NO_REAL_PATH = "FL0093", Error, "checks cannot go to the VIP",
        "a check goes to the VIP on a backend where clients' packets do so, by the same way: in l2dsr and the tunnels, for a service with one address, to backends of its family, by a connection or a datagram",
        "use `target = \"backend\"`, or leave the key out: then each check goes the way that it can";
    UNEVEN_MARKS = "FL0094", Error, "the marks for checks begin at an odd place",
        "they are 65,536, told from all others by the high half of a packet's mark",
        "use a multiple of 0x10000 whose high half no rule of this machine looks at";
    BAD_URL = "FL0095", Error, "the text is not the URL of a webhook",
        "events are posted to a server over HTTP or HTTPS; a fragment is not sent, and neither are a user and a password",
        "write scheme, host and path, such as \"https://example.org/hook\", an IPv6 address in brackets";
    BAD_HOOK = "FL0096", Error, "a hook is never told anything, or does not say how",
        "a hook runs a command or posts to a URL, one of the two, for events of some kinds",
        "add `command` or `url`";
    DUPLICATE_HOOK = "FL0097", Error, "two hooks have the same name",
        "metrics and the log know a hook by its name",
        "rename one of them";
    UNKNOWN_SERVICE = "FL0098", Error, "there is no service of this name",
        "a hook for a service that there is not would never be told anything, and that would not be seen until it matters",
        "use the `name` of a service of this file";
    CHECK_ELSEWHERE = "FL0099", Error, "checks of a backend would go to where no check may go",
        "`check-networks` says where checks may go, so that no slip, and nobody else who writes a part of this file, makes this machine knock elsewhere",
        "correct the backend's address, or add its network to `check-networks`";

    WEIGHT_ZERO = "FL0101", Warning, "a backend of weight 0 takes no new flows",
        "the weight is its share of the new flows",
        "give it a weight, or say `admin = \"draining\"` so that status and metrics show that it is meant";
    NO_CHECK = "FL0102", Warning, "a service is not checked",
        "a dead backend keeps its share of the flows, and nobody is told",
        "use one of the types, such as \"tcp\" or \"http\"; for UDP \"udp\", \"dns\" or \"icmp\"";
    FALL_ONE = "FL0103", Warning, "one bad probe takes a backend out",
        "single probes get lost on every network, and each loss would move flows",
        "use 2 or 3; a shorter interval finds a dead backend as soon";
    ONE_BACKEND = "FL0104", Warning, "a service has one backend only",
        "when that one fails, the service fails",
        "add a second backend";
    NO_SERVICE = "FL0105", Warning, "no service is configured",
        "the daemon would run and forward nothing",
        "add a `[[service]]`";
    TOML_1_1 = "FL0106", Warning, "the file uses syntax that came with TOML 1.1",
        "other tools that read the file may know TOML 1.0 only",
        "write inline tables on one line without a comma at the end, and escapes as \\u00XX";
    METRICS_OPEN = "FL0107", Warning, "metrics can be read from other machines",
        "they tell names, addresses and traffic of all backends, without a password",
        "listen on 127.0.0.1, or see to it that a firewall lets the metrics server in only";
    NONE_ENABLED = "FL0108", Warning, "no backend of a service may take flows",
        "all of them are draining, disabled or of weight 0",
        "enable one with `admin = \"enabled\"`";
    RING_UNEVEN = "FL0109", Warning, "the ring is small for its backends",
        "with fewer than a hundred slots a backend, shares differ by more than a percent (Maglev, NSDI'16, section 5.3)",
        "leave `ring-size` out, or use a prime of a hundred slots a backend or more";
    COVERED = "FL0110", Warning, "no packet reaches a service",
        "services that are more specific (a longer prefix, a protocol of its own, fewer ports) take all that it would",
        "remove it, or one of the others";
    GUE_AMONG_PORTS = "FL0111", Warning, "some datagrams of a service look like tunnels",
        "gue is known by its UDP port, and that is one of the service's: backends drop what clients send to it as a tunnel within the tunnel",
        "give `gue-port` a number that no client uses, here and to `fairlead decap --gue-port` on the backends";
    SHARED_PACKETS = "FL0112", Warning, "two services share packets, and neither lies within the other",
        "the one that is more specific (a longer prefix, a protocol of its own, fewer ports) takes what both would",
        "if that is not meant, give them ports, addresses or protocols that do not meet";
    RUN_BY_ROOT = "FL0113", Warning, "a command is run by root",
        "a command without `user` is run by the daemon's user, which is root: whoever can change it, or what it reads, has the whole host",
        "say who runs it: `user = \"nobody\"`, or `user = \"root\"` if it needs that";
    NO_OTHERS = "FL0114", Warning, "packets without ports do not come to a service",
        "what is neither TCP, UDP nor SCTP comes to services with `protocol = \"any\"` and `port = \"any\"` alone",
        "remove the key, or say `port = \"any\"`";
}

/// The code with this id, in any case.
pub fn find(id: &str) -> Option<&'static Code> {
    ALL.iter().copied().find(|c| c.id.eq_ignore_ascii_case(id))
}

/// What `--explain` prints.
pub fn explain(code: &Code) -> String {
    format!(
        "{}: {} ({})\n\nwhy:  {}\ncure: {}\n",
        code.id,
        code.title,
        code.severity.as_str(),
        code.cause,
        code.cure
    )
}
