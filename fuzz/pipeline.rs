//! A fuzzer's bytes choose maps, changes of them and packets; the library and the oracle must agree about all of it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let case = lb_oracle::generate::chosen(bytes);
    if lb_oracle::case::run(&case).is_err() {
        panic!("{}", lb_oracle::case::explain(&case));
    }
});
