"""A headless Chromium for the scripts of this folder."""

from selenium import webdriver


def start(chromium, chromedriver, folder, resolver_rules):
    """Starts a browser with an empty profile in `folder` and these rules to resolve names."""
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in [
        "--headless=new",
        # It opens only pages of this machine; its sandbox does not work for root.
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1280,2000",
        f"--user-data-dir={folder}",
        f"--host-resolver-rules={resolver_rules}",
    ]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=chromedriver)
    return webdriver.Chrome(options=options, service=service)
