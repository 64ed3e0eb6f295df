#![no_main]
//! See `house::fuzz::csr`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = house::fuzz::csr(data);
});
