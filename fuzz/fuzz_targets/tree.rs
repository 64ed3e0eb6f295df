#![no_main]
//! See `house::fuzz::tree`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = house::fuzz::tree(data);
});
