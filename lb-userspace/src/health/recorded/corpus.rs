//! What the fuzzers of answers have found to be worth a look, once more: `fuzz/corpus`.

#[path = "../../../../fuzz/answers/checked.rs"]
mod checked;
#[path = "../../../../fuzz/answers/dns.rs"]
mod dns;
#[path = "../../../../fuzz/answers/frames.rs"]
mod frames;
#[path = "../../../../fuzz/answers/grpc.rs"]
mod grpc;
#[path = "../../../../fuzz/answers/http.rs"]
mod http;
#[path = "../../../../fuzz/answers/http2.rs"]
mod http2;

/// An input a line, in hexadecimal digits.
#[track_caller]
fn each(corpus: &str, run: fn(&[u8])) {
    let mut inputs = 0;
    for line in corpus.lines() {
        let digits: Vec<u8> = line
            .chars()
            .map(|digit| digit.to_digit(16).unwrap() as u8)
            .collect();
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect();
        println!("{line}");
        run(&bytes);
        inputs += 1;
    }
    assert!(inputs > 100, "{inputs} inputs");
}

#[test]
fn answers_by_http_are_read_as_the_fuzzer_reads_them() {
    each(include_str!("../../../../fuzz/corpus/http.txt"), http::run);
}

#[test]
fn answers_by_http2_are_read_as_the_fuzzer_reads_them() {
    each(
        include_str!("../../../../fuzz/corpus/http2.txt"),
        http2::run,
    );
}

#[test]
fn answers_by_grpc_are_read_as_the_fuzzer_reads_them() {
    each(include_str!("../../../../fuzz/corpus/grpc.txt"), grpc::run);
}

#[test]
fn answers_by_dns_are_read_as_the_fuzzer_reads_them() {
    each(include_str!("../../../../fuzz/corpus/dns.txt"), dns::run);
}
