"""What is written like a name and is none: products, companies, roles, headings, identifiers, days."""

from __future__ import annotations

import random

TECH = """Kubernetes Docker Terraform Ansible Jenkins Grafana Prometheus Kafka RabbitMQ Redis Postgres PostgreSQL MySQL MongoDB
Cassandra Elasticsearch Kibana Logstash Airflow Spark Hadoop Hive Flink Snowflake Databricks Tableau Looker Splunk Datadog
Sentry Nginx Apache Envoy Istio Linkerd Consul Vault Nomad Packer Vagrant Helm Argo Flux Tekton Spinnaker Bazel Gradle Maven
Ant Groovy Kotlin Scala Clojure Erlang Elixir Haskell Rust Go Python Java JavaScript TypeScript Ruby Perl PHP Swift Julia Dart
Lua Cobol Fortran Ada Pascal Delphi React Angular Vue Svelte Ember Django Flask FastAPI Rails Spring Hibernate Laravel Symfony
Express Nest Next Nuxt Gatsby Hugo Jekyll Webpack Vite Rollup Babel Eslint Prettier Jest Mocha Cypress Selenium Playwright
Puppeteer Pandas NumPy SciPy Matplotlib Seaborn Plotly Keras TensorFlow PyTorch Jupyter Anaconda Conda Poetry Pipenv Celery
Gunicorn Uvicorn Sanic Tornado Twisted Linux Ubuntu Debian Fedora CentOS Alpine Arch Gentoo Windows Mac Android Chrome Firefox
Safari Opera Edge Brave Slack Zoom Teams Outlook Gmail Notion Trello Asana Jira Confluence Miro Figma Sketch Canva Photoshop
Illustrator Excel Word PowerPoint Access SharePoint OneDrive Dropbox Box GitHub GitLab Bitbucket Gitea Copilot Claude Gemini
Llama Mistral Falcon Bard Cohere Alexa Siri Cortana Watson Einstein Salesforce HubSpot Zendesk Shopify Stripe Square PayPal
Twilio SendGrid Mailchimp Okta Auth0 Cloudflare Akamai Fastly Vercel Netlify Heroku Lambda Fargate Aurora Athena Glue Kinesis
Redshift Sagemaker Bedrock Cognito Amplify Lightsail Polly Lex Macie Beam Dagster Prefect Luigi Avro Parquet Thrift Protobuf
Swagger Postman Insomnia Karma Jasmine Chai Sinon Enzyme Storybook Tailwind Bootstrap Sass Less Pug Jade Handlebars Mustache
Jinja Mako Cassini Hermes Zeus Apollo Atlas Titan Phoenix Falcon Mercury Gemini Orion Nova Neptune Pegasus Odyssey Chef Puppet
Salt Solr Lucene Nutch Tika Kylin Druid Pinot Presto Trino Impala Ignite Storm Samza Camel Karaf Felix Wicket Struts Tomcat
Jetty Maria Oracle Sybase Informix Neo4j Dgraph Madison Jackson Newton Dijkstra Bellman Huffman Bloom Fourier Gauss Euler
Laplace Bayes Markov Poisson Turing Boole""".split()
SHORT = """S3 EKS EC2 C4 K8s IAM VPC RDS SQS SNS ECS ECR EBS EFS AMI ALB NLB ELB CDN DNS TLS SSL SSH API SDK CLI GUI UI UX SQL NoSQL
ORM JSON XML YAML TOML CSV PDF HTML CSS HTTP HTTPS REST gRPC TCP UDP IP CPU GPU RAM SSD OS VM CI CD PR MR QA KPI OKR SLA SLO SLI
ETA EOD ASAP FYI TO_DO FIX_ME HR IT PM CEO CTO CFO COO VP B2B B2C SaaS PaaS IaaS MVP ROI NPS ARR MRR EU US UK UN NATO FDA GDPR
HIPAA SOC2 PCI ISO IEEE RFC W3C ASCII UTF8 UUID JWT OAuth SAML SSO LDAP MFA H100 A100 T4 M1 GPT-4 GPT-4o V8 R2 D3 C3 P0 P1 Q1
Q2 Q3 Q4 AWS GCP AKS GKE ES6 X11 F5 L4 L7 B12 MIT BSD GPL LGPL APL""".replace("_", "").split()
ROLES = """Manager Director Engineer Designer Analyst Developer Architect Consultant Administrator Support Sales Marketing
Finance Legal Operations Security Platform Admin Owner Guest Customer Client User Agent Assistant System Bot Editor Author
Reviewer Maintainer Contributor Patient Doctor Nurse Teacher Student Tenant Landlord Buyer Seller Vendor Supplier Driver
Employee Candidate Recruiter Manager Supervisor Lead Head Chief Officer President Chairman Secretary Treasurer Team Staff
Everyone All Folks Friends Colleagues Sir Madam Mom Dad Grandma Honey Boss Dude""".split()
HEADINGS = """Overview Introduction Installation Usage Getting_Started Quick_Start Configuration Examples Contributing License
Changelog Release_Notes Table_of_Contents Background Motivation Requirements Prerequisites Known_Issues Troubleshooting FAQ
Summary Conclusion Discussion Results Methods Abstract Appendix References Acknowledgements Next_Steps Action_Items Agenda
Meeting_Notes Project_Plan Road_Map Terms_of_Service Privacy_Policy Order_Summary Billing_Details Shipping_Information Job_Title
Account_Settings Data_Model Error_Handling Best_Practices Design_Decisions Open_Questions Test_Plan Key_Features Deep_Dive
Monte_Carlo Big_Data Machine_Learning Deep_Learning Neural_Network Load_Balancer Rate_Limit Access_Token Pull_Request
Code_Review Stand_Up Sprint_Planning Black_Friday Cyber_Monday New_Year Christmas_Eve Good_Friday Easter_Monday Happy_Birthday
Kind_Regards Best_Wishes Thank_You Dear_Customer Good_Morning Good_Evening Customer_Service Human_Resources Visual_Studio
Google_Cloud Amazon_Web_Services Active_Directory Power_BI Red_Hat Apple_Watch Harley_Davidson Ben_&_Jerry Marks_&_Spencer
Johnson_&_Johnson Goldman_Sachs Morgan_Stanley JP_Morgan Wells_Fargo Merrill_Lynch Rolls_Royce Aston_Martin Hugo_Boss Calvin_Klein
Ralph_Lauren Tommy_Hilfiger Louis_Vuitton Estee_Lauder Mary_Kay Jack_Daniels Dr_Pepper Papa_Johns Wendys Mercedes Lincoln Ford
Chevrolet Tesla Ferrari Boeing Disney Philips Siemens Bosch Dell Hewlett_Packard Ernst_&_Young Arthur_Andersen Baker_McKenzie
Entertainment_Weekly Rolling_Stone The_Beatles Pink_Floyd Star_Wars Harry_Potter_Studio Super_Bowl World_Cup Premier_League
Nobel_Prize Academy_Awards""".split()
HEADINGS = [heading.replace("_", " ") for heading in HEADINGS]
DAYS = """Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June July August September
October November December Mon Tue Wed Thu Fri Sat Sun Jan Feb Mar Apr Jun Jul Aug Sep Oct Nov Dec Easter Christmas Ramadan
Hanukkah Diwali Thanksgiving Halloween Spring Summer Autumn Winter""".split()
ADJECTIVES = """English French German Spanish Italian Dutch Polish Turkish Russian Chinese Japanese Korean Arabic Hindi Portuguese
Swedish Danish Norwegian Finnish Greek Czech Hungarian American British Canadian Australian Mexican Indian European Asian African
Christian Muslim Jewish Hindu Buddhist Catholic Protestant Republican Democrat Victorian Gothic Roman Latin Western Northern""".split()
COMPANY_ENDS = """Inc LLC Ltd Limited GmbH Corp Corporation Group Holdings Partners Solutions Systems Technologies Labs Studio Media
Bank Capital Ventures Logistics Foods Motors Airlines Insurance University Hospital Clinic School Museum Foundation Institute
Orchestra Band Records Magazine Times Post Hotel Restaurant Cafe Bakery Pharmacy Consulting & Co & Sons & Associates AG SA BV Oy AB
PLC Pty S.p.A. Inc. Ltd. Co.""".replace("& ", "&_").split()
COMPANY_ENDS = [end.replace("_", " ") for end in COMPANY_ENDS]
DOES = """is was has had will would can could must does did says said thinks knows likes wants needs asks told gave sent got
made took saw found left came went works lives owns reads writes runs walks sings plays sells buys drives reviews approves checks
fixes tests leads manages calls emails visits joins leaves wins loses starts stops forgot agreed refused sleeps looks feels seems
just never always also already still often reports booked paid ordered returned moved married hates loves""".split()
VERBS = "get set load save fetch build create delete update make parse render handle send check init run start stop find add".split()
NOUNS = """User Account Order Invoice Payment Customer Session Token Request Response Message Event Task Job Queue Cache File Buffer
Stream Reader Writer Parser Builder Factory Manager Service Controller Handler Client Server Node Cluster Model View Config Context
Logger Filter Mapper Adapter Proxy Provider Registry Store Index Record Entity Policy Rule Profile Report Schema Widget""".split()


def identifier(rng: random.Random) -> str:
    """A name that a program gives to something."""
    verb, one, two = rng.choice(VERBS), rng.choice(NOUNS), rng.choice(NOUNS)
    return rng.choice(
        [
            f"{one}{two}", f"{verb}{one}", f"{verb}_{one.lower()}", f"{one.lower()}_{two.lower()}", one, f"I{one}", f"{one}{two}Impl",
            f"{one.upper()}_{two.upper()}", f"{one.lower()}-{two.lower()}-{rng.randint(1, 99)}", f"{one}Error", f"{one}Exception",
            f"{one.lower()}.{verb}", f"test_{verb}_{one.lower()}", f"{one}::{verb}", f"Abstract{one}{two}",
        ]
    )  # fmt: skip


def thing(rng: random.Random) -> str:
    """Something with a capital letter that is nobody's name."""
    luck = rng.random()
    if luck < 0.3:
        return rng.choice(TECH)
    if luck < 0.42:
        return rng.choice(SHORT)
    if luck < 0.52:
        return rng.choice(ROLES)
    if luck < 0.68:
        return rng.choice(HEADINGS)
    if luck < 0.78:
        return rng.choice(DAYS)
    if luck < 0.85:
        return rng.choice(ADJECTIVES)
    if luck < 0.92:
        return f"{rng.choice(TECH)} {rng.choice(NOUNS)}"
    return identifier(rng)
